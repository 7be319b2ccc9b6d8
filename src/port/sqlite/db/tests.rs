use super::*;
use tempfile::TempDir;

const UNIX: Duration = Duration::from_secs(1_800_000_000);
const NOTES: Schema = Schema { name: "notes", steps: &["CREATE TABLE notes (text TEXT NOT NULL) STRICT"] };

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn open(path: &Path) -> Result<Arc<Database>, OpenError> {
    let database = Database::open(path, Options::default(), UNIX)?;
    database.migrate(NOTES)?;
    Ok(database)
}

fn note(text: &str) -> impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static {
    let text = text.to_owned();
    move |connection| connection.execute("INSERT INTO notes VALUES (?1)", [text]).map(drop)
}

fn notes(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection.prepare("SELECT text FROM notes ORDER BY rowid")?.query_map([], |row| row.get(0))?.collect()
}

/// Makes a file with one note in it, and waits until its threads have let go of it.
fn made(path: &Path) {
    let database = open(path).expect("a new file");
    database.write_blocking(note("kept")).expect("a note");
    drop(database);
    while beside(path, "-wal").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writes_share_commits_and_all_are_there() {
    let folder = folder();
    let database = open(&folder.path().join("a.db")).expect("open");
    let writes: Vec<_> = (0..500)
        .map(|n| {
            let database = database.clone();
            tokio::spawn(async move { database.write(note(&n.to_string())).await })
        })
        .collect();
    for write in writes {
        write.await.expect("a task").expect("a write");
    }
    assert_eq!(database.read(notes).await.expect("read").len(), 500);
    let commits = database.counters().commits.load(Ordering::Relaxed);
    assert!(commits < 400, "{commits} commits for 500 writes");
}

#[tokio::test]
async fn a_failing_write_takes_back_only_itself() {
    let folder = folder();
    let database = open(&folder.path().join("a.db")).expect("open");
    let failing = database.write(|connection| {
        note("half")(connection)?;
        connection.execute("INSERT INTO nowhere VALUES (1)", []).map(drop)
    });
    let (one, failed, two) = tokio::join!(database.write(note("one")), failing, database.write(note("two")));
    one.expect("first");
    two.expect("second");
    assert!(matches!(failed, Err(DbError::Failed(_))), "{failed:?}");
    assert_eq!(database.read(notes).await.expect("read"), ["one", "two"]);
    assert_eq!(database.trouble(), None);
}

#[test]
fn what_was_told_is_there_after_reopening() {
    let folder = folder();
    let path = folder.path().join("deep/er/a.db");
    made(&path);
    let database = open(&path).expect("open again");
    assert_eq!(database.write_blocking(notes).expect("read"), ["kept"]);
}

#[test]
fn a_second_owner_is_refused_and_a_visitor_is_not() {
    let folder = folder();
    let path = folder.path().join("a.db");
    let owner = open(&path).expect("open");
    let error = Database::open(&path, Options::default(), UNIX).expect_err("taken");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let visitor = Database::visit(&path).expect("visit");
    visitor.write_blocking(note("from outside")).expect("write beside the owner");
    owner.write_blocking(note("from inside")).expect("write beside the visitor");
    assert_eq!(owner.write_blocking(notes).expect("read"), ["from outside", "from inside"]);
}

#[test]
fn whoever_names_the_same_file_gets_the_same_database() {
    let folder = folder();
    let all = Databases::default();
    let one = all.open(&folder.path().join("a.db"), Options::default(), UNIX).expect("open");
    let two = all.open(&folder.path().join("a.db"), Options::default(), UNIX).expect("the same");
    assert!(Arc::ptr_eq(&one, &two));
}

#[test]
fn damage_is_refused_with_a_remedy() {
    let folder = folder();
    let path = folder.path().join("a.db");
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 5] = [
        ("truncated to nothing", |path| std::fs::write(path, b"").expect("write")),
        ("missing", |path| std::fs::remove_file(path).expect("remove")),
        ("cut in the middle", |path| {
            let file = OpenOptions::new().write(true).open(path).expect("open");
            file.set_len(file.metadata().expect("size").len() / 2).expect("cut");
        }),
        ("not a database", |path| std::fs::write(path, vec![b'x'; 9000]).expect("write")),
        ("a page of zeros", |path| {
            use std::os::unix::fs::FileExt as _;
            let file = OpenOptions::new().write(true).open(path).expect("open");
            let last = file.metadata().expect("size").len() - 4096;
            file.write_all_at(&[0xff; 4096], last).expect("overwrite");
        }),
    ];
    for (name, damage) in cases {
        made(&path);
        damage(&path);
        let error = open(&path).expect_err(name);
        assert!(matches!(error, OpenError::Corrupt { .. }), "{name}: {error}");
        assert!(error.remedy_of_queues().contains("set_aside"), "{name}: {error}");
        assert!(!error.to_string().contains("set_aside"), "{name}: {error}");
        // Refused twice: looking at it must not mend it by accident.
        open(&path).expect_err(name);
        let options = Options { if_corrupt: IfCorrupt::SetAside, ..Options::default() };
        let database = Database::open(&path, options, UNIX).unwrap_or_else(|error| panic!("{name}: {error}"));
        database.migrate(NOTES).expect("tables");
        assert!(database.write_blocking(notes).expect("read").is_empty(), "{name}");
        let aside = beside(&path, ".corrupt-1800000000");
        assert_eq!(aside.exists(), name != "missing", "{name}");
        drop(database);
        while beside(&path, "-wal").exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        for entry in std::fs::read_dir(folder.path()).expect("list").flatten() {
            std::fs::remove_file(entry.path()).expect("clean");
        }
    }
}

#[test]
fn a_strangers_database_and_a_newer_one_are_left_alone() {
    let folder = folder();
    let path = folder.path().join("foreign.db");
    let foreign = Connection::open(&path).expect("open");
    foreign.execute_batch("CREATE TABLE theirs (x); PRAGMA application_id = 7").expect("fill");
    drop(foreign);
    let options = Options { if_corrupt: IfCorrupt::SetAside, ..Options::default() };
    let error = Database::open(&path, options, UNIX).expect_err("not ours");
    assert!(matches!(error, OpenError::Foreign { found: 7, .. }), "{error}");
    assert!(matches!(Database::visit(&path), Err(OpenError::Foreign { .. })));

    let path = folder.path().join("newer.db");
    made(&path);
    let database = Database::open(&path, Options::default(), UNIX).expect("open");
    database.write_blocking(|db| db.execute("UPDATE hookmoat_schema SET version = 9", []).map(drop)).expect("write");
    let error = database.migrate(NOTES).expect_err("too new");
    assert!(error.to_string().contains("notes tables have version 9, this one knows 1"), "{error}");
}

#[test]
fn tables_grow_step_by_step() {
    let folder = folder();
    let path = folder.path().join("a.db");
    made(&path);
    const GROWN: Schema = Schema { name: "notes", steps: &[NOTES.steps[0], "ALTER TABLE notes ADD COLUMN more TEXT"] };
    let database = Database::open(&path, Options::default(), UNIX).expect("open");
    database.migrate(GROWN).expect("one step");
    database.migrate(GROWN).expect("no step");
    let found: i64 = database
        .write_blocking(|db| db.query_row("SELECT count(*) FROM notes WHERE more IS NULL", [], |row| row.get(0)))
        .expect("read");
    assert_eq!(found, 1);
}

#[test]
fn too_little_free_disk_is_said() {
    let folder = folder();
    let options = Options { min_free: u64::MAX, ..Options::default() };
    let database = Database::open(&folder.path().join("a.db"), options, UNIX).expect("open");
    assert!(matches!(database.has_room(), Err(DbError::Full(_))));
}

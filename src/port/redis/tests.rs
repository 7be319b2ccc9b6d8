use super::*;
use crate::check::rate_limit::{Buckets, Limit, LimitKey};
use crate::policy::{Readiness, RedisAddress, Servers};
use crate::port::contract::{self, Disaster, Harness};
use crate::request::{ClientIp, Head, HeaderName, Headers, Now};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// A server of our own, empty, on a free port. Ends with the value.
struct Server {
    port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(more)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (tests/setup.sh test)");
        Self { port, child, _folder: folder }
    }

    fn policy(&self) -> Redis {
        Redis {
            servers: Servers::Single { address: RedisAddress::Host("127.0.0.1".into(), self.port), database: 0 },
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            tls: None,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            prefix: "test".into(),
            evicting: Evicting::Refuse,
            readiness: Readiness::Ignore,
        }
    }

    async fn store(&self) -> Arc<RedisState> {
        let store = RedisState::start(&self.policy(), StateMetrics::unread()).unwrap();
        for _ in 0..1000 {
            if store.trouble().is_none() {
                return Arc::new(store);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no connection: {:?}", store.trouble());
    }

    async fn eval(&self, store: &RedisState, script: &str, args: &[&str]) -> Value {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(0).arg(args);
        store.inner.link.command(Operation::Probe, &command).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Time passes in this harness by being taken off every key's life: what a script does with times that are over is the
/// same as if they had been waited for.
struct Shared {
    server: Server,
    store: Arc<RedisState>,
}

const AGE: &str = "
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key) - ARGV[1]
  if left <= 0 then redis.call('DEL', key) else redis.call('PEXPIRE', key, left) end
end";

#[async_trait]
impl Harness for Shared {
    async fn fresh(&self) -> Arc<dyn SeenIds> {
        self.server.eval(&self.store, "redis.call('FLUSHALL')", &[]).await;
        self.store.clone()
    }

    async fn bounded(&self, _: usize) -> Option<Arc<dyn SeenIds>> {
        None
    }

    fn now(&self) -> Instant {
        Now::read().instant
    }

    async fn pass(&self, time: Duration) {
        self.server.eval(&self.store, AGE, &[&time.as_millis().to_string()]).await;
    }

    fn unit(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn is_virtual(&self) -> bool {
        true
    }

    fn is_cheap(&self) -> bool {
        false
    }

    fn disasters(&self) -> &[Disaster] {
        &[Disaster::Forgets]
    }

    async fn strike(&self, store: Arc<dyn SeenIds>, _: Disaster) -> Arc<dyn SeenIds> {
        self.server.eval(&self.store, "redis.call('FLUSHALL')", &[]).await;
        store
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_keeps_the_contract() {
    let server = Server::start(&[]);
    let store = server.store().await;
    contract::all(&Shared { server, store }).await;
}

fn limit(interval: u64, burst: u32, id: u64) -> Limit {
    Limit { key: LimitKey::Header(HeaderName::from_static("x-a")), interval: Duration::from_nanos(interval), burst, id }
}

/// The same requests at the same moments get the same answers, to the nanosecond.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn limits_answer_as_those_of_this_process_do() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let start = Now::read().instant;
    let buckets = Buckets::new(1000, start);
    // A third of a second is no whole number of anything. The last one is nearly as deep as Lua's numbers are exact in
    // nanoseconds, 104 days; beyond that they round by a few.
    let limits =
        [limit(333_333_333, 3, 1), limit(1_000, 1, 2), limit(10_000_000_000, 50, 3), limit(86_400_000_000_000, 100, 4)];
    let client = ClientIp::new("192.0.2.1".parse().unwrap());
    let mut random = 1u64;
    let mut at = Duration::ZERO;
    let mut refused = 0;
    for step in 0..3000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chance = random >> 33;
        at += match chance % 5 {
            0 => Duration::from_nanos(chance % 1000),
            1 => Duration::from_micros(chance % 400_000),
            2 => Duration::from_secs(chance % 3),
            _ => Duration::ZERO,
        };
        let value = [b'a' + (chance % 3) as u8];
        let headers = [("x-a", &value[..])];
        let head = Head { method: "POST", path: "/", query: None, host: "x", headers: Headers::List(&headers) };
        let go_on = chance.is_multiple_of(2);
        let from = (chance % 3) as usize;
        let some = &limits[from..];
        let mut here = Vec::new();
        for limit in some {
            let taken = buckets.take(limit, client, &head, start + at);
            let wait = taken.err().map_or(Duration::ZERO, |reject| reject.retry_after.unwrap());
            here.push(wait);
            if !wait.is_zero() {
                refused += 1;
                if !go_on {
                    break;
                }
            }
        }
        let asked: Vec<_> = some
            .iter()
            .map(|limit| Bucket {
                name: limit.shared_name(client, &head),
                interval: limit.interval,
                burst: limit.burst,
            })
            .collect();
        let base = Duration::from_secs(1_800_000_000);
        let there = store.inner.take(Group(*b"contract"), &asked, go_on, Some(base + at)).await.unwrap();
        assert_eq!(here, there, "step {step} at {at:?}");
    }
    assert!(refused > 500, "{refused}");
    // Every bucket ends by itself.
    let alive = server.eval(&store, "local n = 0 for _, k in ipairs(redis.call('KEYS', '*:limit:*')) do if redis.call('PTTL', k) <= 0 then return -1 end n = n + 1 end return n", &[]).await;
    assert!(matches!(alive, Value::Int(1..)), "{alive:?}");
}

/// What is asked of the server itself, one trip each.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_a_settlement_and_all_limits_are_one_command_each() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let keys = |n: u8| Keys { group: Some(Group(*b"contract")), id: Key([n; 16]), content: vec![Key([n + 1; 16])] };
    let terms = Terms { lease: Duration::from_secs(60), remember: Duration::from_secs(60) };
    let now = Now::read().instant;
    let commands = async || {
        let info = store.inner.link.command(Operation::Probe, redis::cmd("INFO").arg("commandstats")).await.unwrap();
        let Value::BulkString(text) = info else { panic!("{info:?}") };
        let text = String::from_utf8(text).unwrap();
        let calls = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
            line.map_or(0, |line| line.split(',').next().unwrap().parse::<u32>().unwrap())
        };
        (calls("evalsha"), calls("eval"))
    };
    let round = async |n: u8| {
        let Ok(Claim::New(token)) = store.claim(&keys(n), terms, now).await else { panic!() };
        assert!(store.settle(token, Outcome::Done, now).await.unwrap());
        let bucket = |n: u8| Bucket { name: [n; 16], interval: Duration::from_secs(1), burst: 10 };
        store.take(Group(*b"contract"), &[bucket(1), bucket(2), bucket(3)], false).await.unwrap();
    };
    // The server hears each text once.
    round(1).await;
    let before = commands().await;
    assert_eq!(before.1, 3);
    round(3).await;
    assert_eq!(commands().await, (before.0 + 3, 3));
    // It has forgotten them: the text goes once more, and nobody notices.
    store.inner.link.command(Operation::Probe, redis::cmd("SCRIPT").arg("FLUSH")).await.unwrap();
    round(5).await;
    assert_eq!(commands().await.1, 6);
    assert_eq!(store.trouble(), None);
}

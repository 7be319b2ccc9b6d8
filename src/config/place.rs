//! Where in the file does a key stand?
//!
//! The data comes from one YAML parser, the positions from the events of another one. They only meet in paths, so a
//! disagreement costs at worst a line number: what cannot be found is looked for one level up.

use saphyr_parser::{Event, Parser, Span};
use std::collections::HashMap;
use std::fmt;

/// One step into the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// A place in the configuration: `routes[2].secrets[0].env`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place(pub(super) Vec<Step>);

/// Line and column, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// No configuration is deeper than this; what is, costs parsers the square of its depth.
const MAX_DEPTH: usize = 64;

/// Every key and list element of a file with its position.
#[derive(Debug, Default)]
pub(super) struct Positions {
    pub(super) known: HashMap<Place, Position>,
    /// Keys that stand twice in one mapping: the place, the first and the second position.
    pub(super) twice: Vec<(Place, Position, Position)>,
    /// Where it gets deeper than any configuration is.
    pub(super) too_deep: Option<Position>,
}

impl Place {
    pub(super) fn key(&self, key: impl Into<String>) -> Self {
        self.then(Step::Key(key.into()))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    /// Further down, along a path in the form that `Display` writes.
    pub(super) fn path(&self, path: &str) -> Self {
        let mut place = self.clone();
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let (key, indices) = part.split_once('[').unwrap_or((part, ""));
            if !key.is_empty() {
                place.0.push(Step::Key(key.to_owned()));
            }
            place.0.extend(indices.split('[').filter_map(|i| i.trim_end_matches(']').parse().ok()).map(Step::Index));
        }
        place
    }

    pub(super) fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    pub(super) fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = Vec::with_capacity(self.0.len() + 1);
        steps.extend_from_slice(&self.0);
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => write!(f, "{}", key.escape_debug())?,
                Step::Key(key) => write!(f, ".{}", key.escape_debug())?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Positions {
    /// Reads as far as the text is YAML; what comes after an error has no position.
    pub(super) fn of(text: &str) -> Self {
        let mut walk = Walk::default();
        let mut parser = Parser::new_from_str(text);
        while let Some(Ok((event, span))) = parser.next_event() {
            walk.event(&event, span);
            if walk.open.len() > 2 * MAX_DEPTH {
                walk.found.too_deep = Some(position(span));
                break;
            }
        }
        walk.found
    }

    /// The position of the place, or of the nearest one above it that is known.
    pub(super) fn find(&self, place: &Place) -> Option<Position> {
        let mut place = place.clone();
        loop {
            if let Some(position) = self.known.get(&place) {
                return Some(*position);
            }
            place.0.pop()?;
        }
    }
}

#[derive(Default)]
struct Walk {
    found: Positions,
    here: Place,
    open: Vec<Open>,
}

/// A collection that has begun and not ended.
enum Open {
    /// Between a value and a key.
    Map,
    /// A sequence, with the index of its next element.
    Seq(usize),
    /// After a key: `here` ends with it.
    Value,
    /// Inside a key that is itself a collection. Nothing in there has a path.
    Lost,
}

impl Walk {
    fn event(&mut self, event: &Event<'_>, span: Span) {
        match event {
            Event::Scalar(text, ..) => {
                if matches!(self.open.last(), Some(Open::Map)) {
                    self.key(text, position(span));
                } else {
                    self.begin(span);
                    self.end();
                }
            }
            Event::Alias(_) => {
                if matches!(self.open.last(), Some(Open::Map)) {
                    self.key("*", position(span));
                } else {
                    self.begin(span);
                    self.end();
                }
            }
            Event::MappingStart(..) => {
                let lost = self.begin(span);
                self.open.push(if lost { Open::Lost } else { Open::Map });
            }
            Event::SequenceStart(..) => {
                let lost = self.begin(span);
                self.open.push(if lost { Open::Lost } else { Open::Seq(0) });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                let was = self.open.pop();
                if matches!(was, Some(Open::Lost)) && matches!(self.open.last(), Some(Open::Map)) {
                    // The collection was a key: its value follows.
                    self.key("?", position(span));
                } else {
                    self.end();
                }
            }
            _ => {}
        }
    }

    fn key(&mut self, name: &str, position: Position) {
        self.here.0.push(Step::Key(name.to_owned()));
        self.open.push(Open::Value);
        match self.found.known.get(&self.here) {
            Some(first) if name != "?" && name != "*" => {
                self.found.twice.push((self.here.clone(), *first, position));
            }
            _ => {
                self.found.known.insert(self.here.clone(), position);
            }
        }
    }

    /// A value begins; true when nothing inside it can have a path.
    fn begin(&mut self, span: Span) -> bool {
        match self.open.last_mut() {
            Some(Open::Seq(next)) => {
                self.here.0.push(Step::Index(*next));
                *next += 1;
                self.found.known.entry(self.here.clone()).or_insert_with(|| position(span));
                false
            }
            Some(Open::Map | Open::Lost) => true,
            Some(Open::Value) | None => false,
        }
    }

    /// A value ended: back to the collection it stands in.
    fn end(&mut self) {
        match self.open.last() {
            Some(Open::Value) => {
                self.open.pop();
                self.here.0.pop();
            }
            Some(Open::Seq(_)) => {
                self.here.0.pop();
            }
            _ => {}
        }
    }
}

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, path: &str) -> Option<usize> {
        Positions::of(text).find(&Place::default().path(path)).map(|position| position.line)
    }

    #[test]
    fn keys_and_elements_have_the_line_they_begin_on() {
        let text = "a: 1\nb:\n  - x: 1\n    y: [1,\n     2]\n  -\n    x: 2\nc: {d: {e: 1}}\n";
        for (path, expected) in
            [("a", 1), ("b", 2), ("b[0]", 3), ("b[0].y", 4), ("b[0].y[1]", 5), ("b[1].x", 7), ("c.d.e", 8)]
        {
            assert_eq!(line(text, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_is_unknown_is_looked_for_one_level_up() {
        let text = "base: &b\n  x: 1\nuse:\n  <<: *b\n  z: 2\nlist:\n  - *b\n  - 3\n? [1, 2]\n: {q: 1}\nlast: 1\n";
        assert_eq!(line(text, "use.x"), Some(3));
        assert_eq!(line(text, "list[0].x"), Some(7));
        assert_eq!(line(text, "list[1]"), Some(8));
        assert_eq!(line(text, "last"), Some(11));
        assert_eq!(line(text, "nowhere.at.all"), None);
    }

    #[test]
    fn keys_that_stand_twice_are_found() {
        let twice = Positions::of("a:\n  b: 1\n  c: 2\n  b: 3\nd: [{e: 1}, {e: 2}]\n").twice;
        let shown: Vec<_> = twice.iter().map(|(p, a, b)| format!("{p} {} {}", a.line, b.line)).collect();
        assert_eq!(shown, ["a.b 2 4"]);
    }
}

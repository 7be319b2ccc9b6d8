//! Memory that bytes are read into, used again by the next request of the same thread. A connection that waits holds
//! none.

use crate::request::Field;
use bytes::BufMut;
use std::cell::RefCell;
use std::io;
use std::ops::Deref;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A head and a usual webhook's body fit.
const SIZE: usize = 32 * 1024;
/// Fields of a head, at most, whose list is kept.
const FIELDS: usize = 128;
/// Unused buffers kept for each thread.
const KEPT: usize = 64;
/// Unused large buffers kept for each thread, and how large they may be.
const LARGE_KEPT: usize = 8;
const LARGE_MAX: usize = (1 << 20) + (1 << 18);

thread_local! {
    static UNUSED: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
    static LARGE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

/// Bytes that were read, with the places of the fields of a head among them. Takes its memory when there is something to
/// be read, gives it back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Memory);

impl Memory {
    fn fresh() -> Self {
        Self { bytes: Vec::with_capacity(SIZE), fields: Vec::with_capacity(FIELDS / 4) }
    }
}

impl Buffer {
    /// Reads once, at most `most` bytes, behind what is there. 0: the end of the stream.
    ///
    /// Dropping the caller's future loses nothing: bytes are here or still in the socket.
    pub(crate) fn poll_fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.0.bytes.capacity() == 0 {
            self.0 = UNUSED.with_borrow_mut(Vec::pop).unwrap_or_else(Memory::fresh);
        } else if self.0.bytes.len() == self.0.bytes.capacity() {
            self.0.bytes.reserve(self.0.bytes.len());
        }
        let result = read(stream, context, &mut self.0.bytes, most);
        if result.is_pending() && self.0.bytes.is_empty() {
            self.give_back();
        }
        result
    }

    /// The bytes, and the list of fields to be filled.
    pub(crate) fn parts(&mut self) -> (&[u8], &mut Vec<Field>) {
        (&self.0.bytes, &mut self.0.fields)
    }

    /// The bytes, and the list of fields as it was filled.
    pub(crate) fn seen(&self) -> (&[u8], &[Field]) {
        (&self.0.bytes, &self.0.fields)
    }

    /// Is everything that fits into a buffer there already, or can it still come?
    pub(crate) fn fits(bytes: usize) -> bool {
        bytes <= SIZE
    }

    /// Drops what stands in front.
    pub(crate) fn consume(&mut self, bytes: usize) {
        if bytes >= self.0.bytes.len() {
            self.0.bytes.clear();
        } else {
            self.0.bytes.drain(..bytes);
        }
    }

    /// Drops what stands behind.
    pub(crate) fn truncate(&mut self, bytes: usize) {
        self.0.bytes.truncate(bytes);
    }

    fn give_back(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        if memory.bytes.capacity() == SIZE && memory.fields.capacity() <= FIELDS {
            memory.bytes.clear();
            UNUSED.with_borrow_mut(|unused| {
                if unused.len() < KEPT {
                    unused.push(memory);
                }
            });
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.bytes.capacity() != 0 {
            self.give_back();
        }
    }
}

/// A body that did not fit beside its head. Grows as its bytes come.
#[derive(Debug, Default)]
pub(crate) struct Large(Vec<u8>);

impl Large {
    /// Makes room for more, from what was used before where that is possible.
    pub(crate) fn reserve(&mut self, more: usize) {
        if self.0.capacity() == 0 {
            self.0 = LARGE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        self.0.reserve(more);
    }

    /// Bytes that fit without new memory.
    pub(crate) fn room(&self) -> usize {
        self.0.capacity() - self.0.len()
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.room() < bytes.len() {
            self.reserve(bytes.len());
        }
        self.0.extend_from_slice(bytes);
    }

    /// Reads once, at most `most` bytes. 0: the end of the stream.
    pub(crate) fn poll_fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        read(stream, context, &mut self.0, most)
    }
}

impl Deref for Large {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        if (SIZE..=LARGE_MAX).contains(&bytes.capacity()) {
            bytes.clear();
            LARGE.with_borrow_mut(|unused| {
                if unused.len() < LARGE_KEPT {
                    unused.push(bytes);
                }
            });
        }
    }
}

fn read(
    stream: &mut (impl AsyncRead + Unpin),
    context: &mut Context<'_>,
    bytes: &mut Vec<u8>,
    most: usize,
) -> Poll<io::Result<usize>> {
    pin!(stream.read_buf(&mut bytes.limit(most))).poll(context)
}

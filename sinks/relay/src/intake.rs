//! The body of a call, within bounds.
//!
//! The first requests of a node name every resource that it has, so they may be as long as all
//! names. Whatever comes later is short. Lengths are checked when they are announced, before there
//! is memory for what follows.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use tonic::Status;

/// The longest request that counts as short: an answer with the reasons of a refusal.
const SHORT: usize = 64 << 10;

/// The bytes of the flag and the length before each message.
const HEADER: usize = 5;

/// How many bytes of long requests may still come.
#[derive(Clone, Debug)]
pub(crate) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Allows no more long requests.
    pub(crate) fn end(&self) {
        self.0.store(0, Relaxed);
    }

    fn take(&self, length: usize) -> Result<(), Status> {
        if length <= SHORT {
            return Ok(());
        }
        let left = self.0.load(Relaxed);
        let Some(rest) = left.checked_sub(length) else {
            let message = format!("a request of {length} bytes, of which {left} may be sent");
            return Err(Status::resource_exhausted(message));
        };
        self.0.store(rest, Relaxed);
        Ok(())
    }
}

/// A body whose first frame was read already.
pub(crate) struct Intake {
    first: Option<Frame<Bytes>>,
    rest: Incoming,
    lengths: Lengths,
}

impl Intake {
    pub(crate) fn new(first: Frame<Bytes>, rest: Incoming, allowance: Allowance) -> Self {
        Self { first: Some(first), rest, lengths: Lengths::new(allowance) }
    }
}

impl Body for Intake {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match self.first.take() {
            Some(first) => first,
            None => match ready!(Pin::new(&mut self.rest).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::cancelled(error.to_string()))));
                }
                None => return Poll::Ready(None),
            },
        };
        let checked = frame.data_ref().map_or(Ok(()), |data| self.lengths.check(data));
        Poll::Ready(Some(checked.map(|()| frame)))
    }
}

/// Where messages begin in a body.
struct Lengths {
    allowance: Allowance,
    header: [u8; HEADER],
    filled: usize,
    /// What is left of the message.
    left: usize,
}

impl Lengths {
    fn new(allowance: Allowance) -> Self {
        Self { allowance, header: [0; HEADER], filled: 0, left: 0 }
    }

    /// Looks at the bytes that come next.
    fn check(&mut self, data: &[u8]) -> Result<(), Status> {
        let mut rest = data;
        while let Some((byte, after)) = rest.split_first() {
            if self.left > 0 {
                let (part, after) = rest.split_at(self.left.min(rest.len()));
                self.left -= part.len();
                rest = after;
                continue;
            }
            self.header[self.filled] = *byte;
            self.filled += 1;
            rest = after;
            if self.filled == HEADER {
                self.filled = 0;
                let [_, length @ ..] = self.header;
                self.left = u32::from_be_bytes(length) as usize;
                self.allowance.take(self.left)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).expect("it is short").to_be_bytes());
        bytes.resize(HEADER + length, 0xff);
        bytes
    }

    #[test]
    fn long_requests_share_an_allowance_wherever_the_body_is_cut() {
        let all = [message(0), message(100_000), message(10), message(90_000)].concat();
        for cut in [1, 3, 7, 1_000, all.len()] {
            let mut lengths = Lengths::new(Allowance::new(190_000));
            assert!(all.chunks(cut).all(|part| lengths.check(part).is_ok()));
            let mut lengths = Lengths::new(Allowance::new(189_999));
            let refused = all.chunks(cut).find_map(|part| lengths.check(part).err());
            let message = "a request of 90000 bytes, of which 89999 may be sent";
            assert_eq!(refused.expect("it is too long").message(), message);
        }
    }

    #[test]
    fn only_short_requests_come_after_the_first_ones() {
        let allowance = Allowance::new(1 << 20);
        let mut lengths = Lengths::new(allowance.clone());
        allowance.end();
        assert!(lengths.check(&message(SHORT)).is_ok());
        // The header is enough.
        let refused = lengths.check(&message(SHORT + 1)[..HEADER]);
        assert_eq!(refused.expect_err("it is too long").code(), tonic::Code::ResourceExhausted);
    }
}

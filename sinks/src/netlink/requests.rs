//! Requests to one netlink bus: one, many in one call, or a dump.

use std::io;

use super::{
    Bus, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, Open, Socket, Writer,
    messages,
};

/// The maximum number of requests in one call. Each refusal is answered with a message.
const BATCH: usize = 500;

/// The number of attempts for a dump that the kernel marks as interrupted.
const ATTEMPTS: usize = 10;

/// A long-lived socket that is reopened after a failure, in the network namespace of the thread
/// that uses it then.
pub(crate) struct Requests {
    bus: Bus,
    /// `None` after a failure: pending answers, or the rest of a dump, would be in the way.
    socket: Option<Socket>,
    seq: u32,
}

impl Requests {
    pub(crate) fn open(bus: Bus) -> io::Result<Self> {
        Ok(Self { bus, socket: Some(Socket::open(bus, 0)?), seq: 0 })
    }

    /// Returns true if the last error was a failure of the socket, not a refusal.
    pub(crate) fn has_failed(&self) -> bool {
        self.socket.is_none()
    }

    /// Sends one request and passes on the answers.
    ///
    /// # Errors
    ///
    /// The kernel's error number if it refuses; or if the socket failed.
    pub(crate) fn ask(
        &mut self,
        mut write: impl FnMut(&mut Writer, u16, u32) -> Open,
        each: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        let refused =
            self.exchange(&[()], |writer, flags, seq, ()| write(writer, flags, seq), each)?;
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Sends a request for each item, and returns the indices of those that the kernel refused; all
    /// others have taken effect.
    ///
    /// # Errors
    ///
    /// If the socket failed: any of the requests may have taken effect.
    pub(crate) fn batch<T>(
        &mut self,
        items: &[T],
        mut write: impl FnMut(&mut Writer, u16, u32, &T) -> Open,
    ) -> io::Result<Vec<(usize, io::Error)>> {
        let mut refused = Vec::new();
        let most = self.with_socket(|socket| Ok(socket.most_answers()))?.min(BATCH);
        for (number, items) in items.chunks(most).enumerate() {
            let found = self.exchange(items, &mut write, |_| {})?;
            refused.extend(found.into_iter().map(|(idx, error)| (number * most + idx, error)));
        }
        Ok(refused)
    }

    /// Collects the content of a dump. A socket handles one dump at a time, so several cannot be
    /// sent in one call.
    ///
    /// # Errors
    ///
    /// The kernel's error number if it refuses; or if the socket failed, or every attempt was
    /// interrupted.
    pub(crate) fn dump<T: Default>(
        &mut self,
        mut write: impl FnMut(&mut Writer, u16, u32) -> Open,
        mut each: impl FnMut(&mut T, &Message<'_>),
    ) -> io::Result<T> {
        for _ in 0..ATTEMPTS {
            self.seq = self.seq.wrapping_add(1);
            let seq = self.seq;
            let mut writer = Writer::default();
            let message = write(&mut writer, NLM_F_REQUEST | NLM_F_DUMP, seq);
            writer.close_message(message);
            let mut shown = T::default();
            match self.with_socket(|socket| {
                socket.send(writer.bytes())?;
                show(socket, seq, |message| each(&mut shown, message))
            })? {
                End::Complete => return Ok(shown),
                End::Interrupted => {}
                End::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
        Err(io::Error::other("every attempt of the dump was interrupted"))
    }

    fn exchange<T>(
        &mut self,
        items: &[T],
        mut write: impl FnMut(&mut Writer, u16, u32, &T) -> Open,
        each: impl FnMut(&Message<'_>),
    ) -> io::Result<Vec<(usize, io::Error)>> {
        let first = self.seq.wrapping_add(1);
        let mut writer = Writer::default();
        let mut last = None;
        for item in items {
            self.seq = self.seq.wrapping_add(1);
            let message = write(&mut writer, NLM_F_REQUEST, self.seq, item);
            writer.close_message(message);
            last = Some(message);
        }
        let Some(last) = last else { return Ok(Vec::new()) };
        // Only errors and the success of the last request are answered.
        writer.add_flags(last, NLM_F_ACK);
        self.with_socket(|socket| {
            socket.send(writer.bytes())?;
            answers(socket, first, items.len(), each)
        })
    }

    /// Uses the socket, and keeps it only if it has not failed.
    fn with_socket<T>(&mut self, f: impl FnOnce(&mut Socket) -> io::Result<T>) -> io::Result<T> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::open(self.bus, 0)?,
        };
        let result = f(&mut socket)?;
        self.socket = Some(socket);
        Ok(result)
    }
}

/// Receives the answers to requests whose sequence numbers begin with `first`, and returns the
/// refused ones.
fn answers(
    socket: &mut Socket,
    first: u32,
    requests: usize,
    mut each: impl FnMut(&Message<'_>),
) -> io::Result<Vec<(usize, io::Error)>> {
    let mut refused = Vec::new();
    loop {
        let Some(received) = socket.receive()? else {
            return Err(io::Error::other("the kernel sent no acknowledgement"));
        };
        for message in messages(received) {
            let idx = message.seq.wrapping_sub(first) as usize;
            if idx >= requests {
                continue;
            }
            match message.errno() {
                None => {
                    each(&message);
                    continue;
                }
                Some(0) => {}
                Some(errno) => refused.push((idx, io::Error::from_raw_os_error(errno))),
            }
            if idx + 1 == requests {
                return Ok(refused);
            }
        }
    }
}

/// The result of a dump.
enum End {
    Complete,
    /// Something changed during the dump, so that entries may be missing that existed all the time.
    Interrupted,
    Refused(i32),
}

fn show(socket: &mut Socket, seq: u32, mut each: impl FnMut(&Message<'_>)) -> io::Result<End> {
    let mut interrupted = false;
    loop {
        let Some(received) = socket.receive()? else {
            return Err(io::Error::other("the kernel's dump is incomplete"));
        };
        for message in messages(received).filter(|message| message.seq == seq) {
            interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.errno().or_else(|| message.end_errno()) {
                Some(0) if interrupted => return Ok(End::Interrupted),
                Some(0) => return Ok(End::Complete),
                Some(errno) => return Ok(End::Refused(errno)),
                None => each(&message),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::{RTM_DELADDR, RTM_GETLINK, RTM_NEWLINK};
    use rulec_testkit::{Namespace, require_root};

    use super::*;

    fn get_links(writer: &mut Writer, flags: u16, seq: u32) -> Open {
        let message = writer.header(RTM_GETLINK, flags, seq);
        writer.raw(&[0; 16]);
        message
    }

    /// Returns the number of devices.
    fn links(requests: &mut Requests) -> usize {
        let count = |n: &mut usize, message: &Message<'_>| {
            *n += usize::from(message.kind == RTM_NEWLINK);
        };
        requests.dump(get_links, count).unwrap()
    }

    #[test]
    fn a_failed_socket_is_replaced() {
        if !require_root() {
            return;
        }
        Namespace::new("requests").run(|| {
            let mut requests = Requests::open(Bus::Route).unwrap();
            let n = links(&mut requests);
            assert!(n > 0 && !requests.has_failed());
            let failed: io::Result<()> = requests.with_socket(|socket| {
                // A dump that is not read to its end.
                let mut writer = Writer::default();
                let message = get_links(&mut writer, NLM_F_REQUEST | NLM_F_DUMP, 1);
                writer.close_message(message);
                socket.send(writer.bytes())?;
                Err(io::ErrorKind::Other.into())
            });
            assert!(failed.is_err() && requests.has_failed());
            assert_eq!(links(&mut requests), n);
            assert!(!requests.has_failed());
        });
    }

    #[test]
    fn refusals_match_their_requests_across_batches_and_wraparound() {
        if !require_root() {
            return;
        }
        // A deletion of an address without a device is refused; the query for devices is answered.
        let write = |writer: &mut Writer, flags: u16, seq: u32, is_right: &bool| {
            let kind = if *is_right { RTM_GETLINK } else { RTM_DELADDR };
            let message = writer.header(kind, flags, seq);
            writer.raw(&[0, 0, 0, 0, u8::from(*is_right), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            message
        };
        Namespace::new("refusals").run(|| {
            let mut requests = Requests::open(Bus::Route).unwrap();
            // The sequence numbers wrap around in the first batch.
            requests.seq = u32::MAX - 100;
            let n = 2 * BATCH + 7;
            let items: Vec<bool> = (0..n).map(|idx| idx % 3 > 0).collect();
            let refused = requests.batch(&items, write).unwrap();
            let places: Vec<usize> = refused.iter().map(|(idx, _)| *idx).collect();
            assert_eq!(places, (0..n).step_by(3).collect::<Vec<_>>());
            assert!(requests.batch(&[], write).unwrap().is_empty());
            let error = requests.batch(&[true, false], write).unwrap().remove(0).1;
            assert!(error.raw_os_error().is_some_and(|errno| errno > 0), "{error:?}");
            let asked = requests.ask(|writer, flags, seq| write(writer, flags, seq, &true), |_| {});
            asked.unwrap();
            assert!(!requests.has_failed());
        });
    }
}

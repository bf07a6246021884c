//! Lists of the kernel: addresses of interfaces, and routes.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

/// The most that the kernel sends as one piece of a list.
const RECEIVE_BYTES: usize = 1 << 16;

/// How often a list is retried if something changed meanwhile.
const ATTEMPTS: u32 = 20;

/// Lists what a request asks for, in the network namespace of the calling thread, with retries.
/// `take` gets each answer.
pub(crate) fn list<T: Default>(
    ask: impl Fn() -> RouteNetlinkMessage,
    take: impl Fn(&mut T, &RouteNetlinkMessage),
) -> io::Result<T> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // The kernel has each piece of a list ready when it is asked for, so there is no need to wait.
    socket.set_non_blocking(true)?;
    for sequence_number in 1..=ATTEMPTS {
        if let Some(found) = list_once(&socket, sequence_number, ask(), &take)? {
            return Ok(found);
        }
    }
    Err(io::Error::other("what is listed changed during each attempt"))
}

/// Lists once. `None` if something came or went meanwhile, since the kernel may then have skipped
/// others.
fn list_once<T: Default>(
    socket: &Socket,
    sequence_number: u32,
    ask: RouteNetlinkMessage,
    take: &impl Fn(&mut T, &RouteNetlinkMessage),
) -> io::Result<Option<T>> {
    let mut request = NetlinkMessage::from(ask);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.header.sequence_number = sequence_number;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut found = T::default();
    let mut is_disturbed = false;
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        for message in messages(&buffer) {
            let message = message?;
            if message.header.sequence_number != sequence_number {
                // The rest of an earlier list that was given up.
                continue;
            }
            is_disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
            let payload = &message.payload;
            if let NetlinkPayload::InnerMessage(answer) = payload {
                take(&mut found, answer);
                continue;
            }
            let error = if let NetlinkPayload::Done(end) = payload {
                end.code
            } else if let NetlinkPayload::Error(error) = payload {
                error.raw_code()
            } else {
                continue;
            };
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
            }
            return Ok((!is_disturbed).then_some(found));
        }
    }
}

/// Iterates over the messages in the received bytes.
pub(crate) fn messages(
    mut bytes: &[u8],
) -> impl Iterator<Item = io::Result<NetlinkMessage<RouteNetlinkMessage>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = NetlinkMessage::deserialize(bytes);
        let len = message.as_ref().map_or(bytes.len(), |message| message.header.length as usize);
        // A length of zero would loop for ever.
        bytes = bytes.get(len.next_multiple_of(4).max(4)..).unwrap_or(&[]);
        Some(message.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_messages_end_with_an_error() {
        assert_eq!(messages(&[]).count(), 0);
        for len in [1, 15, 16, 40] {
            assert!(messages(&vec![0; len]).any(|message| message.is_err()), "{len}");
            assert!(messages(&vec![0xff; len]).any(|message| message.is_err()), "{len}");
        }
    }
}

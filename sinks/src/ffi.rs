//! The C libraries: the only unsafe file. It offers objects of libnftnl as messages, and the
//! descriptor of a libmnl socket, without logic and without raw pointers.
//!
//! Only the constant ruleset is built with these objects. Elements, which are most of the traffic,
//! are written by `batch` directly: libnftnl cannot cut them into messages below 64 KiB.

use std::ffi::{CStr, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use nftnl::nftnl_sys::{self as sys, libc::nlmsghdr};

/// Returns the descriptor of a socket.
pub(crate) fn socket_fd(socket: &mnl::Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open while the socket lives, and the result does not outlive it.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// One expression of a rule, and its name. Attributes are those of <libnftnl/expr.h>.
pub(crate) struct Expr(NonNull<sys::nftnl_expr>, &'static CStr);

impl Expr {
    pub(crate) fn new(name: &'static CStr) -> Self {
        // SAFETY: the name is a C string; the library copies what it needs.
        Self(allocated(unsafe { sys::nftnl_expr_alloc(name.as_ptr()) }), name)
    }

    pub(crate) fn name(&self) -> &'static CStr {
        self.1
    }

    pub(crate) fn u8(self, attribute: u32, value: u8) -> Self {
        // SAFETY: the expression is live, and the value is passed by copy.
        unsafe { sys::nftnl_expr_set_u8(self.0.as_ptr(), narrow(attribute), value) };
        self
    }

    pub(crate) fn u32(self, attribute: u32, value: u32) -> Self {
        // SAFETY: as above.
        unsafe { sys::nftnl_expr_set_u32(self.0.as_ptr(), narrow(attribute), value) };
        self
    }

    pub(crate) fn u64(self, attribute: u32, value: u64) -> Self {
        // SAFETY: as above.
        unsafe { sys::nftnl_expr_set_u64(self.0.as_ptr(), narrow(attribute), value) };
        self
    }

    pub(crate) fn data(self, attribute: u32, value: &[u8]) -> Self {
        let (data, len) = parts(value);
        // SAFETY: `data` points to `len` bytes, which the library copies.
        unsafe { sys::nftnl_expr_set(self.0.as_ptr(), narrow(attribute), data, len) };
        self
    }

    pub(crate) fn text(self, attribute: u32, value: &CStr) -> Self {
        // SAFETY: the value is a C string, which the library copies.
        unsafe { sys::nftnl_expr_set_str(self.0.as_ptr(), narrow(attribute), value.as_ptr()) };
        self
    }
}

impl Drop for Expr {
    fn drop(&mut self) {
        // SAFETY: the expression is live and belongs to no rule (`Rule::push` forgets it).
        unsafe { sys::nftnl_expr_free(self.0.as_ptr()) };
    }
}

macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $raw:ident, $alloc:ident, $free:ident, $text:ident,
     $payload:ident) => {
        $(#[$doc])*
        pub(crate) struct $name(NonNull<sys::$raw>);

        impl $name {
            pub(crate) fn new() -> Self {
                // SAFETY: takes nothing.
                Self(allocated(unsafe { sys::$alloc() }))
            }

            pub(crate) fn text(self, attribute: u32, value: &CStr) -> Self {
                // SAFETY: the value is a C string, which the library copies.
                unsafe { sys::$text(self.0.as_ptr(), narrow(attribute), value.as_ptr()) };
                self
            }

            /// Returns the object as a message of this type, family, flags and sequence number.
            pub(crate) fn message(&self, kind: u16, family: u16, flags: u16, seq: u32) -> Vec<u8> {
                build(kind, family, flags, seq, |header| {
                    // SAFETY: the header is at the start of a buffer of the size that libnftnl
                    // requires, and the object is live.
                    unsafe { sys::$payload(header, self.0.as_ptr()) };
                })
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the object is live, and nothing else owns it.
                unsafe { sys::$free(self.0.as_ptr()) };
            }
        }
    };
}

object!(
    /// A table.
    Table,
    nftnl_table,
    nftnl_table_alloc,
    nftnl_table_free,
    nftnl_table_set_str,
    nftnl_table_nlmsg_build_payload
);
object!(
    /// A chain.
    Chain,
    nftnl_chain,
    nftnl_chain_alloc,
    nftnl_chain_free,
    nftnl_chain_set_str,
    nftnl_chain_nlmsg_build_payload
);
object!(
    /// A set or map.
    Set,
    nftnl_set,
    nftnl_set_alloc,
    nftnl_set_free,
    nftnl_set_set_str,
    nftnl_set_nlmsg_build_payload
);
object!(
    /// A rule.
    Rule,
    nftnl_rule,
    nftnl_rule_alloc,
    nftnl_rule_free,
    nftnl_rule_set_str,
    nftnl_rule_nlmsg_build_payload
);

macro_rules! numbers {
    ($name:ident, $set:ident) => {
        impl $name {
            pub(crate) fn u32(self, attribute: u32, value: u32) -> Self {
                // SAFETY: the object is live, and the value is passed by copy.
                unsafe { sys::$set(self.0.as_ptr(), narrow(attribute), value) };
                self
            }
        }
    };
}

numbers!(Table, nftnl_table_set_u32);
numbers!(Chain, nftnl_chain_set_u32);
numbers!(Set, nftnl_set_set_u32);

macro_rules! bytes {
    ($name:ident, $set:ident) => {
        impl $name {
            pub(crate) fn data(self, attribute: u32, value: &[u8]) -> Self {
                let (data, len) = parts(value);
                // SAFETY: `data` points to `len` bytes, which the library copies.
                unsafe { sys::$set(self.0.as_ptr(), narrow(attribute), data, len) };
                self
            }
        }
    };
}

bytes!(Set, nftnl_set_set_data);
bytes!(Rule, nftnl_rule_set_data);

impl Rule {
    /// Appends an expression.
    pub(crate) fn push(&mut self, expr: Expr) {
        // SAFETY: both are live; the rule owns the expression from here on and frees it.
        unsafe { sys::nftnl_rule_add_expr(self.0.as_ptr(), expr.0.as_ptr()) };
        std::mem::forget(expr);
    }
}

fn build(kind: u16, family: u16, flags: u16, seq: u32, fill: impl Fn(*mut nlmsghdr)) -> Vec<u8> {
    // Words, so that the header is aligned; libnftnl states that no message exceeds this size.
    let mut words = vec![0_u64; nftnl::nft_nlmsg_maxsize() as usize / 8 + 1];
    let start = words.as_mut_ptr();
    // SAFETY: the buffer has room for a header.
    let header = unsafe { sys::nftnl_nlmsg_build_hdr(start.cast(), kind, family, flags, seq) };
    fill(header);
    // SAFETY: the header was just written, at the start of the buffer.
    let len = unsafe { (*header).nlmsg_len } as usize;
    words.iter().flat_map(|word| word.to_ne_bytes()).take(len).collect()
}

fn allocated<T>(pointer: *mut T) -> NonNull<T> {
    // libnftnl returns null only if memory is exhausted: abort, like the standard library.
    NonNull::new(pointer).unwrap_or_else(|| std::process::abort())
}

fn parts(value: &[u8]) -> (*const c_void, u32) {
    (value.as_ptr().cast(), u32::try_from(value.len()).unwrap_or(0))
}

/// Converts an attribute number: the library has 32 bits for constants and 16 for arguments.
fn narrow(attribute: u32) -> u16 {
    u16::try_from(attribute).unwrap_or(u16::MAX)
}

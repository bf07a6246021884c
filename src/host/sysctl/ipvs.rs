//! The settings that IPVS needs to work as Services require.

use std::fs;

use super::{Setting, Sysctls, make};

/// The addresses for which the node answers ARP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arp {
    /// Unchanged settings: usually every address of the node, on every device.
    #[default]
    Unchanged,
    /// Only the addresses of the device that received the request (`arp_ignore` 1); requests use an
    /// address of the outgoing device (`arp_announce` 2). Otherwise, every node would answer for
    /// the addresses of all Services.
    Strict,
}

impl Sysctls {
    /// Applies the settings that IPVS needs, and returns the outcome of each. The settings exist
    /// only when its module is loaded.
    ///
    /// - `vs/conntrack`: its connections have conntrack flows, so that nf_tables sees and can
    ///   masquerade them;
    /// - `vs/expire_nodest_conn`: a connection ends with its next packet after its real server was
    ///   deleted;
    /// - `vs/expire_quiescent_template`: the next connection of a client leaves a real server with
    ///   weight 0;
    /// - `ip_forward`: packets to real servers may leave the node;
    /// - `vs/conn_reuse_mode` 0, from Linux 4.1 to 5.8: with 1, these kernels delay a client that
    ///   reuses a port soon by one second. Since 5.9, the kernel's default 1 is right.
    pub fn apply_ipvs(&self, arp: Arp) -> Vec<Setting> {
        let mut wanted = vec![
            ("vs/conntrack", 1),
            ("vs/expire_nodest_conn", 1),
            ("vs/expire_quiescent_template", 1),
            ("ip_forward", 1),
        ];
        if self.release().is_some_and(|release| ((4, 1)..(5, 9)).contains(&release)) {
            wanted.push(("vs/conn_reuse_mode", 0));
        }
        if arp == Arp::Strict {
            wanted.extend([("conf/all/arp_ignore", 1), ("conf/all/arp_announce", 2)]);
        }
        let ipv4 = self.proc_sys.join("net/ipv4");
        let wanted = wanted.into_iter();
        wanted
            .map(|(name, wanted)| make(ipv4.join(name), wanted, |value| value == wanted))
            .collect()
    }

    /// Returns the first two numbers of the kernel's version; `None` if it cannot be read.
    fn release(&self) -> Option<(u32, u32)> {
        let text = fs::read_to_string(self.proc_sys.join("kernel/osrelease")).ok()?;
        let mut numbers = text.split(|char: char| !char.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

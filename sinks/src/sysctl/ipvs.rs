//! The settings without which IPVS does not do what Services need.

use std::fs;

use super::{Setting, Sysctls, make};

/// For which addresses the node answers ARP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arp {
    /// As the node is set: usually for every address it has, on every device.
    #[default]
    Unchanged,
    /// Only for those of the device that is asked (`arp_ignore` 1), and it asks with an address of
    /// that device (`arp_announce` 2). Without, every node would answer for the addresses of all
    /// Services.
    Strict,
}

impl Sysctls {
    /// Makes the settings that IPVS needs, and says what became of each. They are there only once
    /// its module is loaded.
    ///
    /// - `vs/conntrack`: its connections have flows, so that nf_tables sees them, and can
    ///   masquerade;
    /// - `vs/expire_nodest_conn`: a connection ends with its next packet when its real server is
    ///   deleted;
    /// - `vs/expire_quiescent_template`: a client leaves a real server of weight 0 for its next
    ///   connection;
    /// - `ip_forward`: packets to real servers leave the node;
    /// - `vs/conn_reuse_mode` 0, from Linux 4.1 to 5.8: there, with 1, a client port that is used
    ///   again soon waits for a second. Since 5.9, the kernel's own 1 is right.
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

    /// The first two numbers of the kernel's version; `None` if it does not say.
    fn release(&self) -> Option<(u32, u32)> {
        let text = fs::read_to_string(self.proc_sys.join("kernel/osrelease")).ok()?;
        let mut numbers = text.split(|char: char| !char.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

//! Options for the addresses of virtual servers.

use std::fmt;
use std::str::FromStr;

/// The node's options for the addresses of its virtual servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The device for the addresses, if they are on one.
    pub device: Device,
    /// The way in which an address is bound to this node.
    pub addresses: Addresses,
}

/// The way in which an address is bound to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// The address is on a dummy device of ours.
    #[default]
    Dummy,
    /// The address has a local route: `local <address> dev lo proto 114` in the table `local`.
    LocalRoutes,
}

/// The name of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device(String);

impl Device {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The default is kube-proxy's name, by which other programs recognise the device and leave it
/// alone.
impl Default for Device {
    fn default() -> Self {
        Self("kube-ipvs0".to_owned())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Device {
    type Err = String;

    /// Parses a name, as strictly as the kernel.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
        let is_name = (1..=15).contains(&name.len())
            && name != "."
            && name != ".."
            && name.bytes().all(is_allowed);
        if is_name {
            Ok(Self(name.to_owned()))
        } else {
            Err(format!(
                "{name:?} is not a device name: use 1 to 15 printable ASCII characters other than \
                 / : and %"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_those_the_kernel_accepts() {
        for name in ["kube-ipvs0", "a", "0123456789abcde", "eth0.17"] {
            assert_eq!(
                name.parse::<Device>().map(|device| device.to_string()),
                Ok(name.to_owned())
            );
        }
        for name in ["", ".", "..", "0123456789abcdef", "a b", "a/b", "a:b", "dum%d", "naïve"] {
            assert!(name.parse::<Device>().is_err(), "{name}");
        }
        assert_eq!(Device::default().as_str().parse(), Ok(Device::default()));
    }
}

//! What is to be said about the addresses.

use std::fmt;
use std::str::FromStr;

/// What a node decides about the addresses of its virtual servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The device that the addresses are on, if they are on one.
    pub device: Device,
    /// How an address becomes this node's.
    pub addresses: Addresses,
}

/// How an address becomes this node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// It is on a dummy device of ours.
    #[default]
    Dummy,
    /// There is a local route for it: `local <address> dev lo proto 114` in the table `local`.
    LocalRoutes,
}

/// The name of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device(String);

impl Device {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// That of kube-proxy's, by which other programs know it and leave it alone.
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

    /// As strict as the kernel.
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
                "{name:?} is no name of a network device: use 1 to 15 letters, digits and signs, \
                 without / : and %"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_kernel_takes() {
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

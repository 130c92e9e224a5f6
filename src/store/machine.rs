//! What of this machine goes into the keys.
//!
//! A store carried to another machine, key file and all, opens nothing there. That is an obstacle
//! and not a secret: whoever can read these files can write them down too.

use std::fs;
use std::io::{self, ErrorKind};

/// One fact about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It is this.
    Known(Box<str>),
    /// The machine has none.
    Missing,
    /// It has one that this user may not read.
    Forbidden,
}

/// The facts; passed in, so that a test is any machine it likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// SMBIOS's; root alone can read it.
    pub product_uuid: Fact,
    /// systemd's, of the installation.
    pub machine_id: Fact,
    /// Of this boot of the kernel. Mixed into what is drawn at a start, and in no key.
    pub boot_id: Fact,
}

/// Which fact a record is bound to. It stands in clear in every record, as one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum BindingKind {
    /// None: the machine has neither.
    None = 0,
    /// `/etc/machine-id`.
    MachineId = 1,
    /// `/sys/class/dmi/id/product_uuid`.
    ProductUuid = 2,
}

impl BindingKind {
    /// The kind with this byte.
    #[must_use]
    pub fn of(byte: u8) -> Option<Self> {
        [Self::None, Self::MachineId, Self::ProductUuid]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn read() -> Self {
        Self {
            product_uuid: fact(fs::read_to_string("/sys/class/dmi/id/product_uuid")),
            machine_id: fact(fs::read_to_string("/etc/machine-id")),
            boot_id: fact(fs::read_to_string("/proc/sys/kernel/random/boot_id")),
        }
    }

    /// What new records are bound to: the best that can be read.
    #[must_use]
    pub fn binding(&self) -> BindingKind {
        match (&self.product_uuid, &self.machine_id) {
            (Fact::Known(_), _) => BindingKind::ProductUuid,
            (_, Fact::Known(_)) => BindingKind::MachineId,
            _ => BindingKind::None,
        }
    }

    /// The fact of that kind.
    #[must_use]
    pub fn fact(&self, kind: BindingKind) -> &Fact {
        match kind {
            BindingKind::None => &Fact::Missing,
            BindingKind::MachineId => &self.machine_id,
            BindingKind::ProductUuid => &self.product_uuid,
        }
    }
}

fn fact(read: io::Result<String>) -> Fact {
    match read {
        Ok(text) if text.trim().is_empty() => Fact::Missing,
        Ok(text) => Fact::Known(text.trim().to_ascii_lowercase().into()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Fact::Forbidden,
        Err(_) => Fact::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_fact_that_can_be_read_binds() {
        let known = || Fact::Known("x".into());
        for (product_uuid, machine_id, expected) in [
            (known(), known(), BindingKind::ProductUuid),
            (Fact::Forbidden, known(), BindingKind::MachineId),
            (Fact::Missing, known(), BindingKind::MachineId),
            (Fact::Missing, Fact::Missing, BindingKind::None),
        ] {
            let machine = Machine {
                product_uuid,
                machine_id,
                boot_id: Fact::Missing,
            };
            assert_eq!(machine.binding(), expected);
        }
    }

    #[test]
    fn what_is_read_is_trimmed_and_empty_files_say_nothing() {
        assert_eq!(fact(Ok("ABC-1\n".into())), Fact::Known("abc-1".into()));
        assert_eq!(fact(Ok(" \n".into())), Fact::Missing);
        let refused = io::Error::from(ErrorKind::PermissionDenied);
        assert_eq!(fact(Err(refused)), Fact::Forbidden);
        assert_eq!(fact(Err(ErrorKind::NotFound.into())), Fact::Missing);
    }

    #[test]
    fn a_kind_is_found_by_its_byte_alone() {
        for kind in [
            BindingKind::None,
            BindingKind::MachineId,
            BindingKind::ProductUuid,
        ] {
            assert_eq!(BindingKind::of(kind as u8), Some(kind));
        }
        assert_eq!(BindingKind::of(3), None);
    }
}

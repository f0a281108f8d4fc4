//! Attaching the programs to devices, and taking them off again.

use std::io;

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};

use super::load::{LOG_PROGRAMS, Live, PROGRAMS};
use crate::netlink::{Device, LinkType};

/// First of all filters: one before us that ends the chain would hide packets from us. Where
/// this priority belongs to another kind of filter, the kernel chooses one.
const CLSACT_PRIORITY: u16 = 1;
/// Marks our filter among others of the same priority: "lm".
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x6c6d);
const CLSACT_LOG_HANDLE: TcHandle = TcHandle::new(0, 0x6c6e);

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A link of its own (kernel 6.6 and later); gone with the process.
    Tcx,
    /// A filter of the clsact qdisc; it stays after a SIGKILL, and the next start removes it.
    Clsact,
}

impl Hook {
    /// What the running kernel offers.
    pub fn of_this_kernel() -> Self {
        let tcx = KernelVersion::new(6, 6, 0);
        if KernelVersion::current().is_ok_and(|running| running >= tcx) {
            Self::Tcx
        } else {
            Self::Clsact
        }
    }
}

/// Both programs on one device; dropping it takes them off.
pub struct Attachment {
    _links: Vec<SchedClassifierLink>,
}

impl Live {
    /// Attaches both directions to `device`.
    pub fn attach(&mut self, device: &Device, hook: Hook) -> Result<Attachment> {
        let raw_ip = match device.link_type {
            LinkType::Ethernet => false,
            LinkType::RawIp => true,
            LinkType::Other(number) => bail!(
                "{}: frames of this kind of device (ARPHRD {number}) are not understood; name \
                 Ethernet or IP devices in [watch] interfaces",
                device.name
            ),
        };
        if hook == Hook::Clsact {
            prepare_clsact(device)?;
        }
        let mut links = Vec::with_capacity(2);
        for wanted in PROGRAMS.iter().filter(|program| program.raw_ip == raw_ip) {
            let program = self.program(wanted.name)?;
            let direction = direction(wanted.egress);
            let link = attach(program, device, direction, hook, CLSACT_HANDLE)
                .with_context(|| format!("cannot attach {} to {}", wanted.name, device.name))?;
            links.push(link);
            if self.logs {
                let name = LOG_PROGRAMS[usize::from(raw_ip)];
                let link = attach(
                    self.program(name)?,
                    device,
                    direction,
                    hook,
                    CLSACT_LOG_HANDLE,
                )
                .with_context(|| format!("cannot attach {name} to {}", device.name))?;
                links.push(link);
            }
        }
        Ok(Attachment { _links: links })
    }
}

fn direction(egress: bool) -> TcAttachType {
    if egress {
        TcAttachType::Egress
    } else {
        TcAttachType::Ingress
    }
}

fn attach(
    program: &mut SchedClassifier,
    device: &Device,
    direction: TcAttachType,
    hook: Hook,
    handle: TcHandle,
) -> Result<SchedClassifierLink> {
    let id = match hook {
        Hook::Tcx => program.attach_with_options(
            &device.name,
            direction,
            TcAttachOptions::TcxOrder(LinkOrder::first()),
        )?,
        Hook::Clsact => {
            let at = |priority| {
                TcAttachOptions::Netlink(NlOptions {
                    priority,
                    handle,
                    classid: None,
                })
            };
            match program.attach_with_options(&device.name, direction, at(CLSACT_PRIORITY)) {
                Ok(id) => id,
                Err(ProgramError::TcError(TcError::NetlinkError(error))) => {
                    tracing::info!(
                        "{}: priority {CLSACT_PRIORITY} is taken by another filter ({error}); \
                         ours comes after the ones that are there",
                        device.name
                    );
                    program.attach_with_options(&device.name, direction, at(0))?
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    Ok(program.take_link(id)?)
}

/// Makes sure that the device has a clsact qdisc and none of our filters: one that a killed
/// daemon left would see every packet a second time.
fn prepare_clsact(device: &Device) -> Result<()> {
    match tc::qdisc_add_clsact(&device.name) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot add a clsact qdisc to {}", device.name));
        }
    }
    let ours = PROGRAMS.map(|program| (program.name, program.egress));
    let logging = LOG_PROGRAMS.map(|name| [(name, false), (name, true)]);
    for (name, egress) in ours.into_iter().chain(logging.into_iter().flatten()) {
        match tc::qdisc_detach_program(&device.name, direction(egress), name) {
            Ok(()) => tracing::info!(
                "{}: removed {name}, which an earlier run had left",
                device.name
            ),
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot look for filters an earlier run left on {}",
                        device.name
                    )
                });
            }
        }
    }
    Ok(())
}

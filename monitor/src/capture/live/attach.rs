//! Attaching the programs to devices, and taking them off again.

use std::{
    fs, io,
    mem::ManuallyDrop,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{
        Link as _, LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};

use super::load::{LOG_PROGRAMS, Live, PROGRAMS};
use crate::netlink::{Device, Filter, LinkType};

/// First of all filters: one before us that ends the chain would hide packets from us. Where
/// this priority belongs to another kind of filter, the kernel chooses one.
const CLSACT_PRIORITY: u16 = 1;
/// Marks our filter among others of the same priority: "lm".
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x6c6d);
const CLSACT_LOG_HANDLE: TcHandle = TcHandle::new(0, 0x6c6e);
/// What the names of all our programs begin with.
const NAME: &str = "lastmile";

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A link of its own (kernel 6.6 and later); gone with the process unless it is pinned.
    Tcx,
    /// A filter of the clsact qdisc; it stays after a SIGKILL, and the next start removes it or,
    /// where flows are kept, takes its place.
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

/// A filter of ours that the clsact qdisc of a device has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    egress: bool,
    priority: u16,
    handle: TcHandle,
}

impl Standing {
    /// `None`: somebody else's.
    pub fn of(filter: &Filter) -> Option<Self> {
        let handle = [CLSACT_HANDLE, CLSACT_LOG_HANDLE]
            .into_iter()
            .find(|&handle| u32::from(handle) == filter.handle)?;
        filter.name.starts_with(NAME).then_some(Self {
            egress: filter.egress,
            priority: filter.priority,
            handle,
        })
    }

    fn measures(&self) -> bool {
        self.handle == CLSACT_HANDLE
    }

    fn link(&self, device: &Device) -> io::Result<SchedClassifierLink> {
        SchedClassifierLink::attached(
            &device.name,
            direction(self.egress),
            self.priority,
            self.handle,
            None,
        )
    }

    /// Removes the filter, which would see every packet a second time.
    ///
    /// # Errors
    /// When the kernel refuses; that it or its device has gone is none.
    pub fn remove(&self, device: &Device) -> Result<()> {
        let is_gone = |error: &io::Error| {
            matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)
            )
        };
        let removed = match self.link(device) {
            Ok(link) => link.detach(),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => Err(error.into()),
        };
        match removed {
            Ok(()) => {
                tracing::info!(
                    "{}: removed a filter that an earlier run had left at {}",
                    device.name,
                    if self.egress { "egress" } else { "ingress" }
                );
                Ok(())
            }
            Err(
                ProgramError::NetlinkError(error)
                | ProgramError::TcError(TcError::NetlinkError(error)),
            ) if is_gone(&io::Error::from_raw_os_error(
                error.raw_os_error().unwrap_or(0),
            )) =>
            {
                Ok(())
            }
            Err(error) => Err(error).with_context(|| {
                format!("cannot remove what an earlier run left on {}", device.name)
            }),
        }
    }
}

/// Both programs on one device; dropping it takes off what is not kept.
pub struct Attachment {
    _links: Vec<SchedClassifierLink>,
    kept: Vec<Kept>,
    /// Where it is noted that the device has filters.
    note: Option<PathBuf>,
}

/// What stays when the process has gone.
enum Kept {
    /// A TCX link, by where it is pinned.
    Pin(PathBuf),
    Filter(ManuallyDrop<SchedClassifierLink>),
}

impl Attachment {
    /// Takes both programs off, also what would stay.
    ///
    /// # Errors
    /// When something cannot be taken off; a device that has gone is none.
    pub fn detach(self) -> Result<()> {
        for kept in self.kept {
            match kept {
                Kept::Pin(path) => gone(fs::remove_file(&path), &path)?,
                // Dropping it takes it off; a device that has gone took it along.
                Kept::Filter(filter) => drop(ManuallyDrop::into_inner(filter)),
            }
        }
        self.note
            .map_or(Ok(()), |note| gone(fs::remove_dir(&note), &note))
    }
}

/// What is there no more need not be removed.
fn gone(removed: io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Live {
    /// Attaches both directions to `device`, in the place of what an earlier run left there:
    /// its pinned links, or the filters in `standing`.
    pub fn attach(
        &mut self,
        device: &Device,
        hook: Hook,
        standing: &[Standing],
    ) -> Result<Attachment> {
        let raw_ip = match device.link_type {
            LinkType::Ethernet => false,
            LinkType::RawIp => true,
            LinkType::Other(number) => bail!(
                "{}: frames of this kind of device (ARPHRD {number}) are not understood; name \
                 Ethernet or IP devices in [watch] interfaces",
                device.name
            ),
        };
        // One filter at each side is replaced where anything is kept, and no other stays.
        let mut replaced: Vec<&Standing> = Vec::new();
        for filter in standing {
            let is_first = |of: &&Standing| of.egress != filter.egress;
            if self.pins.is_some() && filter.measures() && replaced.iter().all(is_first) {
                replaced.push(filter);
            } else {
                filter.remove(device)?;
            }
        }
        if hook == Hook::Clsact {
            add_clsact(device)?;
        }
        let mut attachment = Attachment {
            _links: Vec::new(),
            kept: Vec::new(),
            note: None,
        };
        if let (Hook::Clsact, Some(pins)) = (hook, &self.pins) {
            attachment.note = Some(pins.note_filters(device.index)?);
        }
        let Err(error) = self.attach_all(device, hook, raw_ip, &replaced, &mut attachment) else {
            return Ok(attachment);
        };
        // One direction alone would say wrong things.
        let detached = attachment.detach();
        let removed = replaced.iter().map(|filter| filter.remove(device));
        for also in [detached]
            .into_iter()
            .chain(removed)
            .filter_map(Result::err)
        {
            tracing::error!("{also:#}");
        }
        Err(error)
    }

    fn attach_all(
        &mut self,
        device: &Device,
        hook: Hook,
        raw_ip: bool,
        standing: &[&Standing],
        attachment: &mut Attachment,
    ) -> Result<()> {
        for wanted in PROGRAMS.iter().filter(|program| program.raw_ip == raw_ip) {
            let direction = direction(wanted.egress);
            let pin = self
                .pins
                .as_ref()
                .map(|pins| pins.link(device.index, wanted.egress));
            let program = self.program(wanted.name)?;
            let result = match (pin, hook) {
                (None, _) => attach(program, device, direction, hook, CLSACT_HANDLE)
                    .map(|link| attachment._links.push(link)),
                (Some(pin), Hook::Tcx) => attach_pinned(program, device, direction, &pin)
                    .map(|()| attachment.kept.push(Kept::Pin(pin))),
                (Some(_), Hook::Clsact) => {
                    let there = standing.iter().find(|of| of.egress == wanted.egress);
                    attach_in_place(program, device, direction, there).map(|filter| {
                        attachment
                            .kept
                            .push(Kept::Filter(ManuallyDrop::new(filter)));
                    })
                }
            };
            result.with_context(|| format!("cannot attach {} to {}", wanted.name, device.name))?;
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
                attachment._links.push(link);
            }
        }
        Ok(())
    }
}

/// Puts the program in the place of the one that the pinned link holds; without a link that
/// works, attaches it and pins the link.
fn attach_pinned(
    program: &mut SchedClassifier,
    device: &Device,
    direction: TcAttachType,
    pin: &Path,
) -> Result<()> {
    match PinnedLink::from_pin(pin) {
        Ok(pinned) => {
            let link = SchedClassifierLink::try_from(FdLink::from(pinned))?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    // The pin holds it.
                    drop(program.take_link(id)?);
                    return Ok(());
                }
                // Its device has gone, and another one has its number.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
                {
                    fs::remove_file(pin)
                        .with_context(|| format!("cannot remove {}", pin.display()))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
        }
        Err(error) => return Err(error.into()),
    }
    let link = attach(program, device, direction, Hook::Tcx, CLSACT_HANDLE)?;
    FdLink::try_from(link)?
        .pin(pin)
        .with_context(|| format!("cannot pin a link as {}", pin.display()))?;
    Ok(())
}

/// Puts the program in the place of our filter, or adds it where there is none.
fn attach_in_place(
    program: &mut SchedClassifier,
    device: &Device,
    direction: TcAttachType,
    standing: Option<&&Standing>,
) -> Result<SchedClassifierLink> {
    let Some(standing) = standing else {
        return attach(program, device, direction, Hook::Clsact, CLSACT_HANDLE);
    };
    let id = program.attach_to_link(standing.link(device)?)?;
    Ok(program.take_link(id)?)
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

/// Makes sure that the device has a clsact qdisc.
fn add_clsact(device: &Device) -> Result<()> {
    match tc::qdisc_add_clsact(&device.name) {
        Ok(()) => Ok(()),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("cannot add a clsact qdisc to {}", device.name))
        }
    }
}

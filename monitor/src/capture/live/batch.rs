//! Reading a whole hash map in batches: aya has no call for it, and one by one takes 7 times as
//! long (29 ms against 218 ms for 100,000 values).

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::MapData;
use aya_obj::generated::{bpf_attr, bpf_cmd};
use monitor_ebpf::flow::FlowKey;

/// Entries a call: 4 MiB of states.
const BATCH: usize = 4_096;

/// Hands every entry of a table of flows to `each`; `empty` is a value of the table's. Entries
/// that come or go meanwhile may be missed or seen (`bpf(2)`, BPF_MAP_LOOKUP_BATCH).
///
/// # Safety
/// The map's keys must be [`FlowKey`]s, and its values as large as `V`, for which any bytes are
/// a value.
pub unsafe fn read<V: Copy>(
    map: &MapData,
    empty: V,
    mut each: impl FnMut(&FlowKey, &V),
) -> io::Result<()> {
    let mut keys = vec![FlowKey::default(); BATCH];
    let mut states = vec![empty; BATCH];
    // The kernel's position in the map: a bucket number, as wide as a key may be.
    let mut position = FlowKey::default();
    let mut first = true;
    loop {
        // SAFETY: a union of plain integers; zero is a valid value of each member.
        let mut attr: bpf_attr = unsafe { mem::zeroed() };
        attr.batch.in_batch = if first {
            0
        } else {
            (&raw const position) as u64
        };
        attr.batch.out_batch = (&raw mut position) as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = states.as_mut_ptr() as u64;
        attr.batch.count = BATCH as u32;
        attr.batch.map_fd = map.fd().as_fd().as_raw_fd() as u32;
        // SAFETY: the buffers hold `count` keys and values of this map's sizes (the caller says so), and live until
        // the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                bpf_cmd::BPF_MAP_LOOKUP_BATCH as libc::c_long,
                &raw mut attr,
                size_of::<bpf_attr>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        let last = match error {
            None => false,
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // A bucket with more entries than a batch cannot be: 4,096 collisions.
            Some(error) => return Err(error),
        };
        // SAFETY: the member that was passed.
        let count = unsafe { attr.batch.count } as usize;
        keys.iter()
            .zip(&states)
            .take(count)
            .for_each(|(key, state)| each(key, state));
        if last {
            return Ok(());
        }
        first = false;
    }
}

//! Flushing: a frozen table becomes a run, and the commits up to it a checkpoint.
//!
//! Invariant: the journal's segments of the table are removed only after the manifest that names
//! the run and the checkpoint is on disk. Without room nothing has happened, and it is tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::{KEY_BYTES, StoreError};
use super::checkpoint;
use super::journal;
use super::manifest::RunEntry;
use super::run::{self, Run};
use super::run_writer::RunWriter;
use super::shared::{Flush, Shared, Stop, View};

/// The most runs: with more, a flush waits for merges, and commits for the flush.
pub(super) const RUNS_MAX: usize = 64;

/// How many times longer than usual the thread waits at most before it tries a flush again that
/// found no room though the file system said that there was: a quota, perhaps.
const PAUSES_MAX: u32 = 16;

/// What the thread does next.
enum Job {
    Flush(Arc<Flush>),
    /// To look whether a full disk has room again.
    Look,
}

/// The thread that flushes, until the store stops.
pub(super) fn work(shared: &Shared) {
    let mut pauses = 1;
    while let Some(job) = next_job(shared, pauses) {
        let done = match job {
            Job::Flush(flush) => attempt(shared, &flush),
            Job::Look => look(shared, &mut pauses),
        };
        if let Err(error) = done {
            shared.fail(error);
            return;
        }
    }
}

/// Waits for something to do; none when the thread is to end.
fn next_job(shared: &Shared, pauses: u32) -> Option<Job> {
    let look_at = Instant::now() + shared.options.room_interval * pauses;
    let mut state = shared.state();
    loop {
        if state.stop == Stop::Now || shared.is_poisoned() {
            return None;
        }
        let is_ending = state.stop == Stop::Drained;
        let may_start = has_place(shared) || is_ending;
        match &state.flush {
            // The journal has what it would write.
            Some(_) if is_ending && state.flush_waits => return None,
            None if is_ending => return None,
            Some(flush) if may_start && !state.flush_waits => {
                return Some(Job::Flush(Arc::clone(flush)));
            }
            _ if !shared.is_full() => shared.wait(&mut state),
            _ => {
                if shared.wait_until(&mut state, look_at) {
                    return Some(Job::Look);
                }
            }
        }
    }
}

/// Whether there are few enough runs for one more.
fn has_place(shared: &Shared) -> bool {
    shared.view().runs.len() < RUNS_MAX
}

/// Flushes; if there is no room for it, the reserve makes some, once. After that the flush waits.
fn attempt(shared: &Shared, flush: &Flush) -> Result<(), StoreError> {
    match run(shared, flush) {
        Err(error) if error.is_full() => {
            shared.note_full(&error);
            if !shared.release_reserve()? {
                shared.state().flush_waits = true;
            }
            // What waits for the flush is to hear that the disk is full.
            shared.wake();
            Ok(())
        }
        done => done,
    }
}

/// Looks whether the flush that waits has room now, or, where none waits, whether commits have.
fn look(shared: &Shared, pauses: &mut u32) -> Result<(), StoreError> {
    let waiting = shared.state().flush.clone();
    let Some(flush) = waiting else {
        *pauses = 1;
        return shared.find_room();
    };
    let bytes = flush.table.read().len() as u64 * KEY_BYTES as u64;
    if !has_place(shared) || !shared.has_room(bytes)? {
        return Ok(());
    }
    match run(shared, &flush) {
        Err(error) if error.is_full() => *pauses = (*pauses * 2).min(PAUSES_MAX),
        done => {
            *pauses = 1;
            done?;
        }
    }
    Ok(())
}

fn run(shared: &Shared, flush: &Flush) -> Result<(), StoreError> {
    let (of_run, of_checkpoint) = (shared.take_number()?, shared.take_number()?);
    let names = [run::name(of_run), checkpoint::name(of_checkpoint)];
    // Until the manifest names them they are nothing, and are not left where there is no room.
    let written = shared.or_discard(&names[0], || {
        shared.or_discard(&names[1], || write(shared, flush, of_run, of_checkpoint))
    })?;
    for segment in flush.first_segment..flush.next_segment {
        retire_segment(shared, segment)?;
    }
    if written.old_checkpoint != 0 {
        let name = checkpoint::name(written.old_checkpoint);
        shared.files.remove_file(&name)?;
    }
    shared.frozen_journal_bytes.store(0, Ordering::Relaxed);
    let checkpoint = &shared.checkpoint_bytes;
    checkpoint.store(written.checkpoint_bytes, Ordering::Relaxed);
    {
        let mut state = shared.state();
        (state.flush, state.flush_waits) = (None, false);
    }
    shared.notify();
    Ok(())
}

/// What [`write()`] put in place, and of what.
struct Written {
    old_checkpoint: u64,
    checkpoint_bytes: u64,
}

/// Writes run and checkpoint, and the manifest that names them, and shows them.
fn write(
    shared: &Shared,
    flush: &Flush,
    of_run: u64,
    of_checkpoint: u64,
) -> Result<Written, StoreError> {
    let run = write_run(shared, flush, of_run)?.map(Arc::new);
    let checkpoint_bytes = flush
        .image
        .write(&*shared.files, of_checkpoint, |from, count| {
            let cut = shared.cut.read();
            let names = cut.names().iter().skip(from).take(count);
            names.cloned().collect()
        })?;
    let mut manifest = shared.manifest.lock();
    let mut next = manifest.clone();
    let old_checkpoint = next.checkpoint;
    next.commit = flush.image.commit;
    next.checkpoint = of_checkpoint;
    next.first_segment = flush.next_segment;
    next.next_number = shared.next_number();
    next.runs.extend(run.iter().map(|run| RunEntry {
        number: run.number,
        keys: run.keys,
    }));
    shared.write_manifest(&next)?;
    *manifest = next;
    {
        let mut view = shared.view.write();
        let mut changed = View::clone(&view);
        changed.frozen = None;
        changed.runs.extend(run);
        *view = Arc::new(changed);
    }
    Ok(Written {
        old_checkpoint,
        checkpoint_bytes,
    })
}

/// Keeps a flushed segment as the next one's space, or removes it when there is one already.
fn retire_segment(shared: &Shared, segment: u64) -> Result<(), StoreError> {
    let name = journal::name(segment);
    let bytes = shared.files.open_file(&name)?.len()?;
    let bytes_max = shared.options.segment_bytes_max + shared.options.journal_ahead_bytes;
    let is_wanted = shared.spare_bytes.load(Ordering::Acquire) == 0 && !shared.is_stopping();
    if !is_wanted || bytes > bytes_max {
        return shared.files.remove_file(&name);
    }
    // Which name it has after a crash does not matter: under neither is it any part of the store.
    match shared.files.rename_file(&name, &journal::spare_name()) {
        Err(error) if error.is_full() => shared.files.remove_file(&name),
        done => {
            done?;
            shared.spare_bytes.store(bytes, Ordering::Release);
            Ok(())
        }
    }
}

fn write_run(shared: &Shared, flush: &Flush, number: u64) -> Result<Option<Run>, StoreError> {
    let mut keys = flush.table.read().to_vec();
    if keys.is_empty() {
        return Ok(None);
    }
    keys.sort_unstable();
    let files = Arc::clone(&shared.files);
    let filter = shared.filters.make(keys.len() as u64);
    let mut writer = RunWriter::create(files, number, filter)?;
    for key in keys {
        writer.push(key)?;
    }
    writer.finish().map(Some)
}

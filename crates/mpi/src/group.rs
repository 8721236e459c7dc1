//! The processes that `mpirun` started, as a group.

use std::time::{Duration, Instant};
use std::{mem, thread};

use lorafit_train::{Lost, ProcessGroup};

use crate::sys::{Code, Exchange, Layout, Process};

/// How long the first process, if it is to stop, waits for the others to come to where it is. Open MPI ends processes a second after
/// it has asked them to stop, and a checkpoint is yet to be written.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long a process waits that is to stop and has nothing to save. The first may be in the middle of a step, and where another
/// ends before, a launcher would end it there.
const PATIENCE_OF_OTHERS: Duration = Duration::from_secs(60);
/// How often a process asks in vain whether the others have come, before it leaves the core to others for longer.
const BUSY: u32 = 2000;
/// How long that is.
const PAUSE: Duration = Duration::from_micros(50);
/// Bytes of a message that travel with its length.
const FRAME: usize = 64;
const INLINE: usize = FRAME - mem::size_of::<u64>();

/// Why there is no group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MpiError {
    /// What MPI says.
    Mpi(String),
    /// This process has begun with MPI before.
    Again,
}

impl std::fmt::Display for MpiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MpiError::Mpi(said) => write!(f, "MPI cannot begin: {said}"),
            MpiError::Again => write!(f, "a process can train together with others once"),
        }
    }
}

impl std::error::Error for MpiError {}

/// The processes that were started together. They part when it is dropped, for which each waits for the others.
#[derive(Debug)]
pub struct Mpi {
    process: Process,
    /// Whether this process is to stop.
    is_stopped: fn() -> bool,
}

impl Mpi {
    /// Joins the processes that were started together; alone if there are no others. Where `is_stopped`, the first process waits for
    /// nobody longer than 0.4 seconds, another for a minute.
    ///
    /// # Errors
    /// MPI that cannot begin, or has begun in this process before.
    pub fn join(is_stopped: fn() -> bool) -> Result<Self, MpiError> {
        let process = Process::begin().map_err(|code| MpiError::Mpi(code.to_string()))?;
        Ok(Mpi { process: process.ok_or(MpiError::Again)?, is_stopped })
    }

    /// How long this process waits if it is to stop.
    fn patience(&self) -> Duration {
        if self.process.rank == 0 { PATIENCE } else { PATIENCE_OF_OTHERS }
    }

    /// Which MPI this is, in its own words.
    pub fn library() -> String {
        Process::library()
    }

    /// Does an exchange, for which a process that is to stop waits so long.
    fn exchange(&self, exchange: Exchange, patience: Duration) -> Result<Exchange, Lost> {
        if !self.process.is_whole() {
            return Err(Lost("the other processes are gone".to_owned()));
        }
        // What is large travels only while somebody asks for it; all are there then.
        let is_short = matches!(exchange, Exchange::Bytes { .. });
        self.process.start(exchange).map_err(lost)?;
        let mut asked: u32 = 0;
        let mut stopped: Option<Instant> = None;
        loop {
            if let Some(done) = self.process.ended().map_err(lost)? {
                return Ok(done);
            }
            if (self.is_stopped)() && stopped.get_or_insert_with(Instant::now).elapsed() > patience {
                self.process.abandon();
                return Err(Lost(format!(
                    "asked to stop, this process waited {} s for the others: they are gone, or in the middle of a step",
                    patience.as_secs_f64()
                )));
            }
            asked = asked.saturating_add(1);
            if asked < BUSY || !is_short { thread::yield_now() } else { thread::sleep(PAUSE) }
        }
    }

    /// Hands a message to all, and gives those of all. It travels with its length, if it is short.
    fn gather(&self, message: &[u8], patience: Duration) -> Result<Vec<Vec<u8>>, Lost> {
        let n = self.process.size;
        let mut own = (message.len() as u64).to_le_bytes().to_vec();
        own.extend(message.iter().take(INLINE));
        own.resize(FRAME, 0);
        let frames = self.exchange(Exchange::Bytes { own, all: vec![0; FRAME * n] }, patience)?;
        let Exchange::Bytes { all: frames, .. } = frames else { unreachable!("what was begun") };
        let lens: Vec<usize> = frames
            .chunks(FRAME)
            .map(|frame| frame.first_chunk().map_or(0, |len| u64::from_le_bytes(*len) as usize))
            .collect();
        let begun = frames.chunks(FRAME).map(|frame| &frame[FRAME - INLINE..]);
        if lens.iter().all(|len| *len <= INLINE) {
            return Ok(begun.zip(lens).map(|(begun, len)| begun[..len].to_vec()).collect());
        }
        let layout = Self::layout(lens.iter().copied())?;
        let all = vec![0; lens.iter().sum()];
        let whole = self.exchange(Exchange::ManyBytes { own: message.to_vec(), all, layout }, patience)?;
        let Exchange::ManyBytes { all, .. } = whole else { unreachable!("what was begun") };
        let mut rest = &all[..];
        let next = |len: usize| rest.split_off(..len).expect("as long as all").to_vec();
        Ok(lens.into_iter().map(next).collect())
    }

    /// Where what each process has is.
    fn layout(counts: impl Iterator<Item = usize>) -> Result<Layout, Lost> {
        Layout::of(counts).ok_or_else(|| Lost("an exchange is larger than MPI can count".to_owned()))
    }
}

fn lost(code: Code) -> Lost {
    Lost(format!("MPI: {code}"))
}

impl ProcessGroup for Mpi {
    fn rank(&self) -> usize {
        self.process.rank
    }

    fn size(&self) -> usize {
        self.process.size
    }

    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.gather(message, self.patience())
    }

    fn all_gather_at_end(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.gather(message, PATIENCE_OF_OTHERS)
    }

    fn all_to_all(
        &self,
        values: &mut Vec<f32>,
        counts: &[usize],
        received: &mut Vec<f32>,
    ) -> Result<(), Lost> {
        let layout = Self::layout(counts.iter().copied())?;
        let of_own = Self::layout(counts.iter().map(|_| counts[self.rank()]))?;
        let (given, room) = (mem::take(values), mem::take(received));
        let done = self
            .exchange(Exchange::ToAll { values: given, layout, received: room, of_own }, self.patience())?;
        let Exchange::ToAll { values: given, received: got, .. } = done else {
            unreachable!("what was begun")
        };
        (*values, *received) = (given, got);
        Ok(())
    }

    fn all_gather_slices(&self, values: &mut Vec<f32>, counts: &[usize]) -> Result<(), Lost> {
        let layout = Self::layout(counts.iter().copied())?;
        let done = self.exchange(Exchange::Slices { values: mem::take(values), layout }, self.patience())?;
        let Exchange::Slices { values: all, .. } = done else { unreachable!("what was begun") };
        *values = all;
        Ok(())
    }
}

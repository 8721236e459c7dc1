//! The processes that train together: who they are, what they tell each other, and sums that depend on nothing but the values.
//!
//! Every process holds all that is trained. In a step each computes the gradient `g_r` of its share of the rows, and all get
//! `g = g_0 + g_1 + ... + g_(N-1)`, so that all take the same step. A process adds up a slice of the values, of which the
//! others send it theirs, in f64 and in the order of the ranks, and rounds the sum to f32 once; then the sums are handed round. So
//! the bits depend neither on who is first nor on how slices are cut. Each process sends `2 (N-1)/N` times the bytes of
//! the gradient, which no exchange can do with less.
//!
//! How bytes travel is that of a [`ProcessGroup`]: MPI in a crate of its own, threads in tests, and [`Alone`] for a run of one
//! process, which exchanges nothing.

use std::fmt::Debug;
use std::ops::Range;
use std::time::{Duration, Instant};

use lorafit_data::{Groups, Samples, divide};
use lorafit_kernels::Tensor;
use lorafit_remedy::{Remedy, Setting, remedy};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) mod testing;

/// Values that are summed at once: 64 MiB, so that a large model takes little more memory than its gradients.
const PIECE: usize = 1 << 24;

/// The processes of a run, one of which this is. All call the same methods in the same order.
pub trait ProcessGroup: Debug {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn size(&self) -> usize;
    /// Hands a short message to all, and gives those of all in the order of their ranks.
    ///
    /// # Errors
    /// A process that is gone.
    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, Lost>;
    /// As [`Self::all_gather`], of a process that has nothing left to do: where it is to stop it waits for the others longer.
    ///
    /// # Errors
    /// A process that is gone.
    fn all_gather_at_end(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.all_gather(message)
    }
    /// Sends each process its slice of `values`, in the order of the ranks and of lengths `counts`. `received` gets the slice that
    /// each process has for this one, in the order of the ranks; it has room for them, all of the same length.
    ///
    /// # Errors
    /// A process that is gone. Both are empty then: an exchange that nobody waits for may still use their memory.
    fn all_to_all(
        &self,
        values: &mut Vec<f32>,
        counts: &[usize],
        received: &mut Vec<f32>,
    ) -> Result<(), Lost>;
    /// Sends all the slice of `values` that is this process's, and fills in those of the others; `counts` are their lengths.
    ///
    /// # Errors
    /// As [`Self::all_to_all`].
    fn all_gather_slices(&self, values: &mut Vec<f32>, counts: &[usize]) -> Result<(), Lost>;
}

/// One process, which has nobody to wait for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

/// One process.
pub static ALONE: Alone = Alone;

impl ProcessGroup for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        Ok(vec![message.to_owned()])
    }

    fn all_to_all(
        &self,
        values: &mut Vec<f32>,
        _counts: &[usize],
        received: &mut Vec<f32>,
    ) -> Result<(), Lost> {
        received.copy_from_slice(values);
        Ok(())
    }

    fn all_gather_slices(&self, _values: &mut Vec<f32>, _counts: &[usize]) -> Result<(), Lost> {
        Ok(())
    }
}

/// The others do not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// Why processes no longer train together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A process is gone.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// A process ended with an error.
    #[error("process {rank}: {message}")]
    Failed {
        /// Its number.
        rank: usize,
        /// What it said.
        message: String,
    },
    /// What has to be equal is not.
    #[error("process {rank} differs from process 0: {what}")]
    Differs {
        /// Its number.
        rank: usize,
        /// In what.
        what: String,
    },
}

impl GroupError {
    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            GroupError::Lost(_) => remedy!["go on from the last checkpoint with ", Setting::Resume.is("RUN")],
            GroupError::Failed { .. } => return None,
            GroupError::Differs { .. } => "give all processes the same program, command and files".into(),
        })
    }
}

/// How a message begins: it is what the others wait for,
const SAID: u8 = 0;
/// or why its process ends.
const FAILED: u8 = 1;

impl dyn ProcessGroup + '_ {
    /// Whether there is but this process.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// Whether this process writes the run's folder and speaks for all.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Hands a message to all, and gives those of all.
    ///
    /// # Errors
    /// A process that is gone, or one that ended instead, with an error.
    pub fn gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, GroupError> {
        let mut messages = self.all_gather(&[&[SAID], message].concat())?;
        let failed = messages.iter().enumerate().find_map(|(rank, message)| Some((rank, failure(message)?)));
        match failed {
            Some((rank, message)) => Err(GroupError::Failed { rank, message }),
            None => {
                messages.iter_mut().for_each(|message| drop(message.drain(..1)));
                Ok(messages)
            }
        }
    }

    /// Says how this process ends, in the place of its next message: with an error, or without. Gives the errors of all.
    ///
    /// # Errors
    /// A process that is gone.
    pub fn end(&self, error: Option<&str>) -> Result<Vec<Option<String>>, Lost> {
        let message = match error {
            None => vec![SAID],
            Some(error) => [&[FAILED], error.as_bytes()].concat(),
        };
        Ok(self.all_gather_at_end(&message)?.iter().map(|message| failure(message)).collect())
    }

    /// Returns when all have come here.
    ///
    /// # Errors
    /// A process that is gone.
    pub fn wait_for_all(&self) -> Result<(), Lost> {
        self.all_gather_at_end(&[SAID]).map(|_| ())
    }

    /// Gives all what each has computed; `None` if one of them was stopped before it had.
    ///
    /// # Errors
    /// As of `gather`.
    pub(crate) fn gather_values(&self, own: Option<Vec<f64>>) -> Result<Option<Vec<Vec<f64>>>, GroupError> {
        if self.is_alone() {
            return Ok(own.map(|own| vec![own]));
        }
        let mut message = vec![u8::from(own.is_none())];
        message.extend(own.unwrap_or_default().iter().flat_map(|value| value.to_le_bytes()));
        let messages = self.gather(&message)?;
        if messages.iter().any(|message| message.first() != Some(&0)) {
            return Ok(None);
        }
        let values = |message: &Vec<u8>| {
            let bytes = message[1..].as_chunks::<8>().0;
            bytes.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
        };
        Ok(Some(messages.iter().map(values).collect()))
    }

    /// Gives all the sums of what each has computed, in the order of the ranks; `None` if one of them was stopped before it had.
    ///
    /// # Errors
    /// As of `gather`.
    pub(crate) fn add_up<const N: usize>(
        &self,
        own: Option<[f64; N]>,
    ) -> Result<Option<[f64; N]>, GroupError> {
        let all = self.gather_values(own.map(|own| own.to_vec()))?;
        let mut sums = [0.0; N];
        for values in all.iter().flatten() {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        Ok(all.map(|_| sums))
    }

    /// Divides rows among the processes: of each, in the order of the ranks, those that it computes.
    pub(crate) fn divide(
        &self,
        samples: &Samples,
        rows: &Groups,
        indices: &[usize],
        share: bool,
    ) -> Vec<Vec<usize>> {
        match self.is_alone() {
            true => vec![indices.to_vec()],
            false => divide(samples, rows, indices, self.size(), share),
        }
    }

    /// Refuses processes of which one has another value of something than the first.
    ///
    /// # Errors
    /// As of `gather`; [`GroupError::Differs`], with the same words on all processes.
    pub fn check_equal(&self, what: &str, value: &[u8]) -> Result<(), GroupError> {
        let values = self.gather(value)?;
        match values.iter().position(|value| *value != values[0]) {
            Some(rank) => Err(differs(rank, what)),
            None => Ok(()),
        }
    }

    /// Where each process's slice of `len` values is.
    fn slices(&self, len: usize) -> Vec<Range<usize>> {
        let n = self.size();
        (0..n).map(|rank| len * rank / n..len * (rank + 1) / n).collect()
    }
}

fn differs(rank: usize, what: &str) -> GroupError {
    GroupError::Differs { rank, what: what.to_owned() }
}

/// What a process says that ends with an error.
fn failure(message: &[u8]) -> Option<String> {
    match message.split_first() {
        Some((&SAID, _)) => None,
        Some((_, error)) => Some(String::from_utf8_lossy(error).into_owned()),
        None => Some(String::new()),
    }
}

/// What it took to add up the gradients of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reduction {
    /// Processes that trained.
    pub processes: usize,
    /// Time that this process waited for the slowest.
    pub wait_seconds: f64,
    /// Time of the exchange.
    pub seconds: f64,
    /// Bytes that this process sent.
    pub bytes: u64,
}

impl Reduction {
    /// Bytes that a process sends, about, to add up so many values.
    pub fn bytes_sent(values: u64, processes: u64) -> u64 {
        8 * values * (processes - 1) / processes
    }

    /// Bytes of the buffers in which so many values are added up by several processes.
    pub fn buffer_bytes(values: u64) -> u64 {
        8 * values.min(PIECE as u64)
    }
}

/// Adds up tensors of all processes; it has the buffers for that.
#[derive(Debug, Default)]
pub(crate) struct Reducer {
    values: Vec<f32>,
    received: Vec<f32>,
}

impl Reducer {
    /// Replaces each value by the sum of those of all processes. All have tensors of the same lengths. Gives the time it took and the bytes that
    /// this process sent.
    pub(crate) fn sum(
        &mut self,
        group: &dyn ProcessGroup,
        tensors: &mut [&mut Tensor],
    ) -> Result<(Duration, u64), GroupError> {
        self.sum_pieces(group, tensors, PIECE)
    }

    fn sum_pieces(
        &mut self,
        group: &dyn ProcessGroup,
        tensors: &mut [&mut Tensor],
        most: usize,
    ) -> Result<(Duration, u64), GroupError> {
        let (started, mut bytes) = (Instant::now(), 0);
        let all: usize = tensors.iter().map(|tensor| tensor.len()).sum();
        // Where the piece begins: a tensor, and a place in it.
        let mut at = (0, 0);
        let mut left = all;
        while left > 0 {
            let len = left.min(most);
            self.values.resize(len, 0.0);
            let parts = parts(tensors, &mut at, len);
            let mut end = 0;
            for (tensor, from, count) in &parts {
                tensors[*tensor].read(*from, &mut self.values[end..end + count]);
                end += count;
            }
            bytes += self.sum_values(group)?;
            let mut end = 0;
            for (tensor, from, count) in &parts {
                tensors[*tensor].write(*from, &self.values[end..end + count]);
                end += count;
            }
            left -= len;
        }
        Ok((started.elapsed(), bytes))
    }

    /// Replaces `values` by their sums; the bytes that were sent.
    fn sum_values(&mut self, group: &dyn ProcessGroup) -> Result<u64, GroupError> {
        let Reducer { values, received } = self;
        let slices = group.slices(values.len());
        let counts: Vec<usize> = slices.iter().map(Range::len).collect();
        let own = slices[group.rank()].clone();
        received.resize(own.len() * group.size(), 0.0);
        group.all_to_all(values, &counts, received)?;
        add_up(received, &mut values[own.clone()]);
        group.all_gather_slices(values, &counts)?;
        let others = group.size() - 1;
        Ok(4 * (values.len() - own.len() + others * own.len()) as u64)
    }
}

/// Sums of what all have sent, one slice behind the other: in f64, in the order of the ranks, rounded once. Threads share the work,
/// which changes nothing.
fn add_up(received: &[f32], sums: &mut [f32]) {
    const CHUNK: usize = 4096;
    let len = sums.len();
    sums.par_chunks_mut(CHUNK).enumerate().for_each(|(i, sums)| {
        let mut all = [0.0_f64; CHUNK];
        let all = &mut all[..sums.len()];
        for of_rank in received.chunks_exact(len) {
            let of_rank = &of_rank[CHUNK * i..][..all.len()];
            all.iter_mut().zip(of_rank).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums.iter_mut().zip(all).for_each(|(sum, all)| *sum = *all as f32);
    });
}

/// The next `len` values from the place `at`, which is moved behind them: tensors, and what of each.
fn parts(tensors: &[&mut Tensor], at: &mut (usize, usize), len: usize) -> Vec<(usize, usize, usize)> {
    let (mut found, mut left) = (Vec::new(), len);
    while left > 0 {
        let (tensor, from) = *at;
        let count = left.min(tensors[tensor].len() - from);
        if count > 0 {
            found.push((tensor, from, count));
        }
        left -= count;
        *at = if from + count == tensors[tensor].len() { (tensor + 1, 0) } else { (tensor, from + count) };
    }
    found
}

#[cfg(test)]
mod tests {
    use lorafit_kernels::{Device, random};

    use super::testing::together;
    use super::*;

    /// What process `rank` has, of sizes whose sum depends on the order of its terms.
    fn values(rank: usize, len: usize) -> Vec<f32> {
        let draw = |i: usize| random::uniform(rank as u64 + 1, i as u64) - 0.5;
        (0..len).map(|i| draw(i) * 10_f32.powi((i + rank) as i32 % 7)).collect()
    }

    /// Of lengths that cut tensors, slices and pieces in all ways, one of them shorter than there are processes.
    #[test]
    fn sums_are_those_in_the_order_of_ranks_however_they_are_cut() {
        for (processes, lens, most) in [
            (3, vec![30_000], 25_000),
            (2, vec![5, 0, 8], 4),
            (3, vec![1, 1], 100),
            (4, vec![17, 3, 40], 7),
            (5, vec![3], 2),
        ] {
            let all: usize = lens.iter().sum();
            let expected: Vec<f32> = (0..all)
                .map(|i| (0..processes).map(|rank| f64::from(values(rank, all)[i])).sum::<f64>() as f32)
                .collect();
            let found = together(processes, |group| {
                let mut own = &values(group.rank(), all)[..];
                let mut tensors: Vec<Tensor> = Vec::new();
                for len in &lens {
                    let (of_tensor, rest) = own.split_at(*len);
                    (own, _) = (rest, tensors.push(Tensor::from_slice(Device::Cpu, of_tensor)));
                }
                let mut tensors_mut: Vec<&mut Tensor> = tensors.iter_mut().collect();
                let (_, bytes) = Reducer::default().sum_pieces(group, &mut tensors_mut, most).expect("sums");
                let values: Vec<f32> =
                    tensors.iter().flat_map(|tensor| tensor.to_vec(tensor.len())).collect();
                (values, bytes)
            });
            for (rank, (sums, _)) in found.iter().enumerate() {
                assert_eq!(*sums, expected, "process {rank} of {processes}");
            }
            // Each value goes to its process from all others, and from it to all others.
            let sent: u64 = found.iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(sent, 2 * 4 * (all * (processes - 1)) as u64);
        }
    }

    #[test]
    fn messages_come_in_the_order_of_ranks_whatever_their_lengths() {
        let found =
            together(3, |group| group.gather(&vec![group.rank() as u8; 2 - group.rank()]).expect("all"));
        assert!(found.iter().all(|messages| *messages == [vec![0, 0], vec![1], vec![]]), "{found:?}");
    }

    #[test]
    fn who_fails_is_heard_by_all_at_the_place_where_they_are() {
        let failed = Some("no such file".to_owned());
        let found = together(3, |group| match group.rank() {
            1 => group.end(Some("no such file")).map_err(GroupError::from).map(|_| ()),
            _ => group.gather(b"ready").map(|_| ()),
        });
        let heard = Err(GroupError::Failed { rank: 1, message: "no such file".to_owned() });
        assert_eq!(found, [heard.clone(), Ok(()), heard]);
        let ends =
            together(3, |group| group.end((group.rank() == 2).then_some("no such file")).expect("all"));
        assert!(ends.iter().all(|ends| *ends == [None, None, failed.clone()]), "{ends:?}");
    }

    #[test]
    fn who_differs_is_named_on_all_processes() {
        let found = together(4, |group| group.check_equal("the data", &[(group.rank() / 2) as u8]));
        let differs = GroupError::Differs { rank: 2, what: "the data".to_owned() };
        assert!(found.iter().all(|result| *result == Err(differs.clone())), "{found:?}");
        assert!(together(2, |group| group.check_equal("the data", b"same")).iter().all(Result::is_ok));
    }

    #[test]
    fn values_add_up_on_all_unless_one_was_stopped() {
        let found = together(3, |group| group.add_up(Some([0.1 * group.rank() as f64, 1.0])).expect("all"));
        assert!(found.iter().all(|sums| *sums == Some([0.1 + 0.2, 3.0])), "{found:?}");
        let found = together(3, |group| group.add_up((group.rank() != 1).then_some([1.0])).expect("all"));
        assert_eq!(found, [None; 3]);
    }
}

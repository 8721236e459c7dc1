//! Processes as threads of one, so that what they compute together can be held to what one computes.

use std::sync::{Condvar, Mutex};
use std::thread;

use super::{Lost, ProcessGroup};

/// What all threads see.
#[derive(Debug)]
struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

/// The messages of one exchange.
#[derive(Debug)]
struct State {
    /// What each has said in this exchange.
    said: Vec<Option<Vec<u8>>>,
    /// The messages of the exchange before this one. They stay until all threads have read them.
    heard: Vec<Vec<u8>>,
    /// How many have yet to read it.
    readers: usize,
    /// Whether a thread is gone.
    is_lost: bool,
}

/// A thread that is a process of the group.
#[derive(Debug)]
pub(crate) struct OfThreads<'a> {
    rank: usize,
    size: usize,
    table: &'a Table,
}

impl OfThreads<'_> {
    /// Every message of all.
    fn exchange(&self, message: Vec<u8>) -> Result<Vec<Vec<u8>>, Lost> {
        let table = self.table;
        let lost = || Lost("a thread is gone".to_owned());
        let waiting = |state: &mut State| !state.is_lost && state.readers > 0;
        let mut state = table.changed.wait_while(table.state.lock().unwrap(), waiting).unwrap();
        if state.is_lost {
            return Err(lost());
        }
        state.said[self.rank] = Some(message);
        if state.said.iter().all(Option::is_some) {
            state.heard = state.said.iter_mut().map(|message| message.take().unwrap()).collect();
            state.readers = self.size;
            table.changed.notify_all();
        }
        let own = self.rank;
        let waiting = |state: &mut State| !state.is_lost && state.said[own].is_some();
        let mut state = table.changed.wait_while(state, waiting).unwrap();
        if state.said[own].is_some() {
            return Err(lost());
        }
        let heard = state.heard.clone();
        state.readers -= 1;
        table.changed.notify_all();
        Ok(heard)
    }

    fn exchange_floats(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, Lost> {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let all = self.exchange(bytes)?;
        let floats = |bytes: &Vec<u8>| {
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        Ok(all.iter().map(floats).collect())
    }
}

/// A thread that ends or panics sends nothing more. The threads that wait for it get an error.
impl Drop for OfThreads<'_> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.table.state.lock() {
            state.is_lost = true;
        }
        self.table.changed.notify_all();
    }
}

impl ProcessGroup for OfThreads<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.exchange(message.to_owned())
    }

    fn all_to_all(
        &self,
        values: &mut Vec<f32>,
        counts: &[usize],
        received: &mut Vec<f32>,
    ) -> Result<(), Lost> {
        let start: usize = counts[..self.rank].iter().sum();
        let slice = |all: &Vec<f32>| all[start..start + counts[self.rank]].to_vec();
        let all: Vec<f32> = self.exchange_floats(values)?.iter().flat_map(slice).collect();
        received.copy_from_slice(&all);
        Ok(())
    }

    fn all_gather_slices(&self, values: &mut Vec<f32>, counts: &[usize]) -> Result<(), Lost> {
        let start: usize = counts[..self.rank].iter().sum();
        let all = self.exchange_floats(&values[start..start + counts[self.rank]])?;
        values.copy_from_slice(&all.concat());
        Ok(())
    }
}

/// What each of so many processes comes to, in the order of their ranks.
pub(crate) fn together<T: Send>(processes: usize, work: impl Fn(&dyn ProcessGroup) -> T + Sync) -> Vec<T> {
    let state = State { said: vec![None; processes], heard: Vec::new(), readers: 0, is_lost: false };
    let table = Table { state: Mutex::new(state), changed: Condvar::new() };
    thread::scope(|scope| {
        let process = |rank| {
            let (table, work) = (&table, &work);
            scope.spawn(move || work(&OfThreads { rank, size: processes, table }))
        };
        let threads: Vec<_> = (0..processes).map(process).collect();
        threads.into_iter().map(|thread| thread.join().expect("no process panics")).collect()
    })
}

//! Checks the exchanges between processes, and measures them:
//!
//! ```text
//! mpirun -n 4 target/release/examples/exchange [LARGEST_MIB]
//! ```

use std::time::Instant;

use lorafit_mpi::Mpi;
use lorafit_train::ProcessGroup;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let largest: usize = std::env::args().nth(1).map_or(Ok(64), |text| text.parse())?;
    let mpi = Mpi::join(|| false)?;
    let (rank, size) = (mpi.rank(), mpi.size());
    let group: &dyn ProcessGroup = &mpi;
    if rank == 0 {
        println!("{size} processes, {}", Mpi::library().lines().next().unwrap_or_default());
    }
    // Messages of other lengths, short ones and such as do not fit in a frame.
    for len in [0, 1, 55, 56, 57, 5000] {
        let of = |rank: usize| vec![rank as u8; len * (rank + 1)];
        let found = group.gather(&of(rank))?;
        assert_eq!(found, (0..size).map(of).collect::<Vec<_>>(), "messages of {len} bytes");
    }
    for len in [0, 1, size.saturating_sub(1), 1000, 12_345] {
        let counts: Vec<usize> = (0..size).map(|r| len * (r + 1) / size - len * r / size).collect();
        // What process `r` has at place `i`, in f32 exactly.
        let value = |r: usize, i: usize| (r * 100_000 + i) as f32;
        let mut values: Vec<f32> = (0..len).map(|i| value(rank, i)).collect();
        let start: usize = counts[..rank].iter().sum();
        let own = start..start + counts[rank];
        let mut received = vec![0.0; own.len() * size];
        mpi.all_to_all(&mut values, &counts, &mut received)?;
        let expected: Vec<f32> = (0..size).flat_map(|r| own.clone().map(move |i| value(r, i))).collect();
        assert_eq!(received, expected, "slices of {len} values");
        values[own.clone()].iter_mut().for_each(|value| *value = -1.0 - rank as f32);
        mpi.all_gather_slices(&mut values, &counts)?;
        let expected: Vec<f32> = (0..size).flat_map(|r| vec![-1.0 - r as f32; counts[r]]).collect();
        assert_eq!(values, expected, "slices of {len} values, handed round");
    }
    let median = |times: Vec<f64>| lorafit_train::median(times).expect("some were timed");
    let message =
        median((0..300).map(|_| timed(|| group.gather(b"done").map(|_| ()))).collect::<Result<_, _>>()?);
    if rank == 0 {
        println!("message of 4 bytes: {:.1} us", 1e6 * message);
    }
    let mut kib = 4;
    while kib <= largest << 10 {
        let len = kib << 8;
        let counts: Vec<usize> = (0..size).map(|r| len * (r + 1) / size - len * r / size).collect();
        let (mut values, mut received) = (vec![1.0; len], vec![0.0; counts[rank] * size]);
        let mut both = || {
            mpi.all_to_all(&mut values, &counts, &mut received)?;
            mpi.all_gather_slices(&mut values, &counts)
        };
        let times = (0..20).map(|_| timed(&mut both)).collect::<Result<_, _>>()?;
        let seconds = median(times);
        if rank == 0 {
            let sent = 2 * 4 * (len - counts[rank]);
            println!(
                "{kib:>8} KiB: {:>9.3} ms, {:>7.2} GB/s sent by each",
                1e3 * seconds,
                sent as f64 / seconds / 1e9
            );
        }
        kib *= 4;
    }
    Ok(())
}

fn timed<E>(work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

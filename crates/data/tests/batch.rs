//! Packing, order, resuming, and cutting steps into micro-batches.

use lorafit_data::{Batch, Order, Position, Sample, Segment, Steps, Target, micro_batches};

fn sample(ids: &[u32], supervised: &[usize]) -> Sample {
    let supervised = (0..ids.len()).map(|i| supervised.contains(&i)).collect();
    Sample { ids: ids.to_vec(), supervised, row: 1 }
}

#[test]
fn packed_samples_are_separate_roots_and_targets_sit_one_row_before() {
    let samples = [sample(&[5, 6, 7], &[1, 2]), sample(&[], &[]), sample(&[8, 9], &[1]), sample(&[4], &[])];
    let batch = Batch::pack(&samples);
    assert_eq!(batch.ids, [5, 6, 7, 8, 9, 4]);
    assert_eq!(batch.positions, [0, 1, 2, 0, 1, 0]);
    let root = |start, len| Segment { start, len, parent: None };
    assert_eq!(batch.segments, [root(0, 3), root(3, 2), root(5, 1)]);
    let target = |row, id| Target { row, id, weight: 1.0 };
    assert_eq!(batch.targets, [target(0, 6), target(1, 7), target(3, 9)]);
}

#[test]
fn a_supervised_first_token_has_nothing_to_predict_it() {
    let samples = [sample(&[1, 2], &[0]), sample(&[3, 4], &[0, 1])];
    let batch = Batch::pack(&samples);
    assert_eq!(batch.targets, [Target { row: 2, id: 4, weight: 1.0 }]);
}

#[test]
fn every_epoch_visits_every_sample_once_and_differently() {
    let order = Order::Shuffled { seed: 7 };
    let epochs: Vec<Vec<usize>> = (0..3).map(|e| order.epoch(100, e)).collect();
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_ne!(epochs[1], epochs[2]);
    assert_ne!(Order::Shuffled { seed: 8 }.epoch(100, 0), epochs[0]);
    assert_ne!(Order::Shuffled { seed: 8 }.epoch(100, 0), epochs[1]);
    assert_eq!(order.epoch(100, 1), epochs[1]);
    assert_eq!(Order::File.epoch(4, 9), [0, 1, 2, 3]);
}

/// A seed means the same order in every version: this list may never change.
#[test]
fn the_order_of_a_seed_is_fixed() {
    assert_eq!(Order::Shuffled { seed: 0 }.epoch(10, 0), [3, 7, 0, 6, 5, 9, 8, 1, 4, 2]);
}

#[test]
fn shuffling_is_uniform() {
    let mut seen = [[0u32; 4]; 4];
    for seed in 0..4000 {
        for (place, sample) in (Order::Shuffled { seed }).epoch(4, 0).into_iter().enumerate() {
            seen[place][sample] += 1;
        }
    }
    // 1000 expected, standard deviation 27.
    assert!(seen.iter().flatten().all(|n| (860..1140).contains(n)), "{seen:?}");
}

#[test]
fn steps_take_batch_times_accumulation_and_keep_the_partial_last() {
    let steps: Vec<_> = Steps::new(7, Order::File, 2, 2).take(4).collect();
    let indices: Vec<&[usize]> = steps.iter().map(|s| &s.indices[..]).collect();
    assert_eq!(indices, [&[0, 1, 2, 3][..], &[4, 5, 6], &[0, 1, 2, 3], &[4, 5, 6]]);
    assert_eq!(steps[0].next, Position { epoch: 0, sample: 4 });
    assert_eq!(steps[1].next, Position { epoch: 1, sample: 0 });
    assert_eq!(Steps::new(7, Order::File, 2, 2).steps_per_epoch(), 2);
    assert_eq!(Steps::new(8, Order::File, 2, 2).steps_per_epoch(), 2);
    assert_eq!(Steps::new(0, Order::File, 2, 2).next(), None);
    assert_eq!(Steps::new(2, Order::File, 0, 0).next().unwrap().indices, [0]);
    assert_eq!(Steps::new(2, Order::File, usize::MAX, 9).next().unwrap().indices, [0, 1]);
}

#[test]
fn resumed_steps_equal_uninterrupted_ones() {
    let fresh = || Steps::new(23, Order::Shuffled { seed: 3 }, 2, 3);
    let whole: Vec<_> = fresh().take(13).collect();
    for (done, step) in whole.iter().enumerate() {
        let rest: Vec<_> = fresh().resume(step.next).take(13 - done - 1).collect();
        assert_eq!(rest, whole[done + 1..]);
    }
    // A position beyond the data (another file) goes on with the next epoch.
    let resumed = fresh().resume(Position { epoch: 1, sample: 99 });
    assert_eq!(resumed.position(), Position { epoch: 2, sample: 0 });
}

#[test]
fn micro_batches_are_greedy_in_order_and_hold_at_least_one_sample() {
    let lengths = [5, 5, 3, 20, 1, 1];
    let cut = |budget| micro_batches(&[0, 1, 2, 3, 4, 5], |i| lengths[i], budget);
    assert_eq!(cut(10), [0..2, 2..3, 3..4, 4..6]);
    assert_eq!(cut(13), [0..3, 3..4, 4..6]);
    let whole = cut(1000);
    assert_eq!((whole.len(), whole[0].clone()), (1, 0..6));
    assert_eq!(cut(0), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6]);
    // Lengths are asked by sample, ranges are of the step.
    assert_eq!(micro_batches(&[3, 0], |i| lengths[i], 10), [0..1, 1..2]);
    assert!(micro_batches(&[], |_| 1, 10).is_empty());
}

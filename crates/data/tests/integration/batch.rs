//! Packing, order, resuming, and cutting steps into micro-batches.

use std::collections::BTreeMap;

use lorafit_data::{
    Batch, Groups, Order, Position, Sample, SampleRef, Samples, Segment, Steps, Target, cut, divide,
};

fn sample(ids: &[u32], supervised: &[usize]) -> Sample {
    let supervised = (0..ids.len()).map(|i| supervised.contains(&i)).collect();
    Sample { ids: ids.to_vec(), supervised, row: 1 }
}

fn stored(samples: &[Sample]) -> Samples {
    samples.iter().cloned().collect()
}

#[test]
fn packed_samples_are_separate_roots_and_targets_sit_one_row_before() {
    let samples =
        stored(&[sample(&[5, 6, 7], &[1, 2]), sample(&[], &[]), sample(&[8, 9], &[1]), sample(&[4], &[])]);
    let batch = Batch::pack(samples.iter());
    assert_eq!(batch.ids, [5, 6, 8]);
    assert_eq!(batch.positions, [0, 1, 0]);
    let root = |start, len| Segment { start, len, parent: None };
    assert_eq!(batch.segments, [root(0, 2), root(2, 1)]);
    let target = |row, id| Target { row, id, weight: 1.0 };
    assert_eq!(batch.targets, [target(0, 6), target(1, 7), target(2, 9)]);
}

#[test]
fn a_supervised_first_token_has_nothing_to_predict_it() {
    let samples = stored(&[sample(&[1, 2], &[0]), sample(&[3, 4], &[0, 1])]);
    let batch = Batch::pack(samples.iter());
    assert_eq!(batch.ids, [3]);
    assert_eq!(batch.targets, [Target { row: 0, id: 4, weight: 1.0 }]);
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

/// Samples of `lengths` inputs each, which have nothing in common.
fn unlike(lengths: &[usize]) -> Samples {
    let one = |(i, &len): (usize, &usize)| sample(&vec![i as u32; len + 1], &[len]);
    lengths.iter().enumerate().map(one).collect()
}

#[test]
fn a_cut_keeps_the_order_and_the_budget_and_is_even() {
    let samples = unlike(&[5, 5, 3, 20, 1, 1]);
    for share in [false, true] {
        let cut = |budget| cut(&samples, &[0, 1, 2, 3, 4, 5], budget, share);
        assert_eq!(cut(10), [&[0][..], &[1, 2], &[3], &[4, 5]]);
        assert_eq!(cut(13), [&[0, 1, 2][..], &[3], &[4, 5]]);
        assert_eq!(cut(1000), [[0, 1, 2, 3, 4, 5]]);
        assert_eq!(cut(0), [[0], [1], [2], [3], [4], [5]]);
        assert_eq!(cut(usize::MAX), [[0, 1, 2, 3, 4, 5]]);
    }
    let even = unlike(&[4; 6]);
    assert_eq!(cut(&even, &[0, 1, 2, 3, 4, 5], 20, false), [[0, 1, 2], [3, 4, 5]]);
    assert_eq!(cut(&samples, &[3, 0], 10, false), [[3], [0]]);
    assert!(cut(&samples, &[], 10, true).is_empty());
}

#[test]
fn a_shared_cut_counts_the_tokens_that_are_computed() {
    let mut random = Random(1);
    for _ in 0..200 {
        let samples = random.tree();
        let indices: Vec<usize> = (0..samples.len()).collect();
        for budget in [1, 5, 12, 30] {
            let groups = cut(&samples, &indices, budget, true);
            let mut seen: Vec<usize> = groups.concat();
            seen.sort_unstable();
            assert_eq!(seen, indices);
            for group in groups {
                let batch = Batch::share(group.iter().map(|&i| samples.sample(i)));
                assert!(batch.len() <= budget || group.len() == 1, "{} tokens for {budget}", batch.len());
            }
        }
    }
}

#[test]
fn shared_beginnings_are_in_the_stream_once() {
    let samples = stored(&[
        sample(&[1, 2, 3, 4], &[2, 3]),
        sample(&[1, 2, 5, 6], &[2, 3]),
        // A prefix of the first, and the first once more.
        sample(&[1, 2, 3], &[2]),
        sample(&[1, 2, 3, 4], &[2, 3]),
        sample(&[7, 8], &[1]),
    ]);
    let batch = Batch::share(samples.iter());
    assert_eq!(batch.ids, [1, 2, 3, 5, 7]);
    assert_eq!(batch.positions, [0, 1, 2, 2, 0]);
    let segment = |start, len, parent| Segment { start, len, parent };
    assert_eq!(
        batch.segments,
        [segment(0, 2, None), segment(2, 1, Some(0)), segment(3, 1, Some(0)), segment(4, 1, None)]
    );
    let target = |row, id, weight| Target { row, id, weight };
    let expected = [(1, 3, 3.0), (1, 5, 1.0), (2, 4, 2.0), (3, 6, 1.0), (4, 8, 1.0)];
    assert_eq!(batch.targets, expected.map(|(row, id, weight)| target(row, id, weight)));
}

#[test]
fn a_tree_of_nested_samples_may_be_deep() {
    let long: Vec<u32> = (0..20_000).collect();
    let samples: Samples = (1..long.len()).step_by(7).map(|len| sample(&long[..=len], &[len])).collect();
    let batch = Batch::share(samples.iter());
    assert_eq!(batch.len(), samples.iter().last().unwrap().len() - 1);
    assert_eq!(batch.segments.len(), samples.len());
}

/// What a batch trains: how often which token is to follow which tokens.
fn trained(batch: &Batch) -> BTreeMap<(Vec<u32>, u32), u32> {
    let mut seen = BTreeMap::new();
    for target in &batch.targets {
        let row = target.row as usize;
        let mut context = Vec::new();
        let mut at = batch.segments.iter().position(|s| s.start <= row && row < s.start + s.len);
        let mut end = row + 1;
        while let Some(i) = at {
            let Segment { start, len, parent } = batch.segments[i];
            assert!(parent.is_none_or(|p| p < i), "a parent comes first");
            context.splice(0..0, batch.ids[start..end.min(start + len)].iter().copied());
            (at, end) = (parent, usize::MAX);
        }
        assert_eq!(batch.positions[row] as usize, context.len() - 1);
        *seen.entry((context, target.id)).or_default() += target.weight as u32;
    }
    seen
}

/// A small generator, so that the trees are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Samples of few different tokens, so that many begin alike, some are equal, and some are part of others.
    fn tree(&mut self) -> Samples {
        let mut samples: Vec<Sample> = Vec::new();
        for _ in 0..1 + self.below(8) {
            let mut ids: Vec<u32> = match self.below(3) {
                0 if !samples.is_empty() => {
                    let other = &samples[self.below(samples.len() as u64) as usize].ids;
                    other[..1 + self.below(other.len() as u64) as usize].to_vec()
                }
                _ => vec![],
            };
            ids.extend((0..1 + self.below(6)).map(|_| self.below(2) as u32).collect::<Vec<_>>());
            let mut supervised: Vec<bool> = ids.iter().map(|_| self.below(2) == 0).collect();
            supervised[0] = false;
            samples.push(Sample { ids, supervised, row: 1 });
        }
        samples.into_iter().collect()
    }
}

#[test]
fn sharing_and_packing_train_the_same_tokens_after_the_same_contexts() {
    let mut random = Random(0);
    let mut saved = 0;
    for _ in 0..2000 {
        let samples = random.tree();
        let mut expected = BTreeMap::new();
        for sample in samples.iter().map(SampleRef::to_sample) {
            for j in (0..sample.len()).filter(|&j| sample.supervised[j]) {
                *expected.entry((sample.ids[..j].to_vec(), sample.ids[j])).or_default() += 1;
            }
        }
        let (packed, shared) = (Batch::pack(samples.iter()), Batch::share(samples.iter()));
        assert_eq!(trained(&packed), expected);
        assert_eq!(trained(&shared), expected);
        for batch in [&packed, &shared] {
            assert!(batch.targets.is_sorted_by_key(|t| t.row));
            let mut next = 0;
            for segment in &batch.segments {
                assert_eq!(segment.start, next);
                next += segment.len;
            }
            assert_eq!(next, batch.len());
        }
        saved += packed.len() - shared.len();
    }
    assert!(saved > 5000, "{saved} tokens shared: the trees are not trees");
}

/// A sample of so many tokens that are computed, from `first` on.
fn run_of(first: u32, tokens: u32) -> Sample {
    let ids: Vec<u32> = (first..=first + tokens).collect();
    let last = ids.len() - 1;
    sample(&ids, &[last])
}

/// Tokens of each part.
fn tokens(samples: &Samples, parts: &[Vec<usize>], share: bool) -> Vec<usize> {
    let of_part = |part: &Vec<usize>| {
        let of_part = part.iter().map(|&i| samples.sample(i));
        if share { Batch::share(of_part).len() } else { Batch::pack(of_part).len() }
    };
    parts.iter().map(of_part).collect()
}

#[test]
fn rows_are_divided_once_each_and_evenly() {
    let lengths = [40, 3, 3, 20, 18, 1, 2, 30, 5, 38];
    let samples = stored(&(0..10).map(|i| run_of(100 * i, lengths[i as usize])).collect::<Vec<_>>());
    let alone = Groups::alone(10);
    let indices = [9, 0, 3, 1, 2, 4, 5, 7, 8, 6];
    for parts in 1..=12 {
        let divided = divide(&samples, &alone, &indices, parts, true);
        assert_eq!(divided.len(), parts);
        let mut all: Vec<usize> = divided.concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>(), "{parts} parts");
        let most = *tokens(&samples, &divided, true).iter().max().expect("a part");
        // Longest first is at most a third above the best.
        let least = 160_usize.div_ceil(parts).max(40);
        assert!(3 * most <= 4 * least, "{parts} parts: {most} tokens, {least} at least");
        assert_eq!(divide(&samples, &alone, &indices, parts, true), divided);
    }
    let divided = divide(&samples, &alone, &indices, 12, false);
    assert_eq!(divided.iter().filter(|part| part.is_empty()).count(), 2);
    assert!(divide(&samples, &alone, &[], 3, true).iter().all(Vec::is_empty));
    // Within a part rows are in the order in which they were given.
    let order = |i: &usize| indices.iter().position(|j| j == i);
    assert!(divide(&samples, &alone, &indices, 3, true).iter().all(|part| part.is_sorted_by_key(order)));
}

/// Of two long prompts with four replies each, a part has one; apart from each other they would be computed on both sides.
#[test]
fn rows_that_begin_alike_are_divided_together_where_that_is_less() {
    let reply = |i: u32| {
        let prompt = (0..50).map(|token| 1000 * (i % 2) + token);
        let ids: Vec<u32> = prompt.chain([500 + i, 600 + i]).collect();
        sample(&ids, &[51])
    };
    let samples = stored(&(0..8).map(reply).collect::<Vec<_>>());
    let (alone, indices) = (Groups::alone(8), [0, 1, 2, 3, 4, 5, 6, 7]);
    let divided = divide(&samples, &alone, &indices, 2, true);
    assert_eq!(tokens(&samples, &divided, true), [54, 54]);
    assert!(divided.iter().all(|part| part.iter().all(|i| i % 2 == part[0] % 2)), "{divided:?}");
    // Where nothing is shared, by length alone.
    assert_eq!(tokens(&samples, &divide(&samples, &alone, &indices, 2, false), false), [204, 204]);
}

//! Micro-batches that are computed at the same time.
//!
//! Threads that share every product wait for each other at its end, some hundred times in a micro-batch. Where another program takes the
//! core of one of them for a moment, all of them wait. In a lane one thread takes a micro-batch from the first product to the last; the
//! others help only when they have nothing else to do.
//!
//! Lane `i` of `n` computes micro-batches `i`, `i + n`, and so on, and gradients are added up in the order of the lanes: the bits do not
//! depend on which thread is faster, nor on how many there are.

use lorafit_kernels::ops::elementwise;
use lorafit_model::{Buffers, Gradients, Parameters};
use rayon::prelude::*;

use super::TrainOptions;
use crate::stream::MicroBatchSize;

/// What a lane computes in.
pub(super) struct Lane {
    pub(super) buffers: Buffers,
    pub(super) gradients: Gradients,
}

impl Lane {
    /// For micro-batches of up to `size`.
    fn new(parameters: &Parameters<'_>, size: MicroBatchSize, options: &TrainOptions) -> Self {
        let gradients = parameters.zero_gradients();
        let MicroBatchSize { tokens, targets } = size;
        let (model, adapter, policy) = (parameters.model(), parameters.adapter(), options.activations);
        let buffers = Buffers::for_training(model, adapter, &gradients, tokens, targets, policy);
        Lane { buffers, gradients }
    }
}

/// The lanes of a run: the first, in which all that is not parallel is computed, too, and those beside it.
pub(super) struct Lanes {
    pub(super) first: Lane,
    beside: Vec<Lane>,
}

impl Lanes {
    /// As many as `options` say, for micro-batches of up to `size`.
    pub(super) fn new(parameters: &Parameters<'_>, size: MicroBatchSize, options: &TrainOptions) -> Self {
        let lane = || Lane::new(parameters, size, options);
        Lanes { first: lane(), beside: (1..options.micro_batches_at_once).map(|_| lane()).collect() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        1 + self.beside.len()
    }

    /// Sets all gradients to zero.
    pub(super) fn clear(&mut self) {
        self.all().for_each(|lane| lane.gradients.clear());
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Lane> {
        std::iter::once(&mut self.first).chain(&mut self.beside)
    }

    /// Computes so many micro-batches; the results are in their order. `compute` is given the place of each.
    pub(super) fn compute<R: Send>(
        &mut self,
        micro_batches: usize,
        compute: impl Fn(usize, &mut Lane) -> R + Sync,
    ) -> Vec<R> {
        let at_once = self.count();
        if at_once == 1 || micro_batches < 2 {
            return (0..micro_batches).map(|place| compute(place, &mut self.first)).collect();
        }
        let of_lane = |(number, lane): (usize, &mut Lane)| -> Vec<R> {
            (number..micro_batches).step_by(at_once).map(|place| compute(place, lane)).collect()
        };
        let lanes: Vec<&mut Lane> = self.all().collect();
        let found: Vec<Vec<R>> = lanes.into_par_iter().with_max_len(1).enumerate().map(of_lane).collect();
        let mut found: Vec<_> = found.into_iter().map(Vec::into_iter).collect();
        (0..micro_batches).filter_map(|place| found[place % at_once].next()).collect()
    }

    /// Adds the gradients of the lanes beside the first to its own.
    pub(super) fn add_up(&mut self) {
        let Lanes { first, beside } = self;
        for lane in beside {
            let own = lane.gradients.tensors_mut();
            for (sum, own) in first.gradients.tensors_mut().into_iter().zip(own) {
                elementwise::add(own, own.len(), sum);
            }
        }
    }
}

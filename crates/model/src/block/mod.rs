//! A decoder block: the steps that its architecture says ([`crate::shape::BlockShape`]), forward and, in reverse, backward.
//! Each kind of step is a file here, with both directions side by side. Backward stops where nothing below is trained.

pub(crate) mod add;
pub(crate) mod attend;
pub(crate) mod gate;
pub(crate) mod gradients;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod pass;
pub(crate) mod project;
pub(crate) mod weights;

use lorafit_kernels::ComputeDtype;

use add::AddStep;
use attend::AttendStep;
use gate::GateStep;
use gradients::{BlockGradients, StepGradients};
use linear::LinearGroup;
use norm::NormStep;
use pass::{BackwardPass, BlockAdapter, Context, Extent, ForwardPass};
use project::ProjectStep;

use crate::shape::{LinearInput, NormInput, StreamAt};

/// A step of a block, with its weights.
#[derive(Debug)]
pub(crate) enum Step {
    Norm(NormStep),
    Project(ProjectStep),
    Attend(AttendStep),
    Gate(GateStep),
    Add(AddStep),
    /// The output of the norm at this place once more, for the second of two halves beside each other.
    Again(usize),
}

/// A block.
#[derive(Debug)]
pub(crate) struct Block {
    pub steps: Vec<Step>,
}

impl Block {
    /// The groups of projections, in forward order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &LinearGroup> {
        self.steps.iter().filter_map(|step| match step {
            Step::Project(project) => Some(&project.group),
            Step::Norm(_) | Step::Attend(_) | Step::Gate(_) | Step::Add(_) | Step::Again(_) => None,
        })
    }

    /// See [`crate::Model::set_compute_dtype`].
    pub(crate) fn set_compute_dtype(&mut self, dtype: ComputeDtype) {
        for step in &mut self.steps {
            if let Step::Project(project) = step {
                project.group.set_compute_dtype(dtype);
            }
        }
    }

    /// Overwrites `pass.hidden`, `[rows, hidden]`, with the block's output (or with something unfinished, if that is not
    /// needed); leaves in `pass.saved` what backward reads.
    pub(crate) fn forward(&self, pass: &mut ForwardPass<'_>, context: &mut Context<'_>, extent: Extent) {
        let needed = match extent {
            Extent::Whole => self.steps.len(),
            Extent::Saved => self.needed_for_backward(),
        };
        for (i, step) in self.steps.iter().enumerate() {
            let only_saved = i >= needed;
            if only_saved && !self.adapted_from(i, pass.adapter) {
                return;
            }
            match step {
                Step::Norm(norm) => norm.forward(pass),
                Step::Project(project) => project.forward(pass, only_saved),
                Step::Attend(attend) => {
                    attend.forward(pass, context);
                    pass.leave_rows();
                }
                Step::Gate(gate) => gate.forward(&pass.saved.wide, pass.rows, &mut pass.scratch.act),
                Step::Add(add) => add.forward(pass),
                Step::Again(norm) => self.norm(*norm).again(pass),
            }
        }
    }

    /// Whether what comes after attention reads of the other steps' results the stream alone, so that it can go on with some rows.
    pub(crate) fn can_leave_rows(&self) -> bool {
        let attend = self.steps.iter().position(|step| matches!(step, Step::Attend(_)));
        let Some(attend) = attend else { return false };
        self.steps[attend + 1..].iter().all(|step| match step {
            Step::Norm(norm) => !matches!(norm.from, NormInput::Stream(StreamAt::Input)),
            Step::Project(project) => match project.from {
                LinearInput::Stream(at) => at != StreamAt::Input,
                LinearInput::Normed(at) | LinearInput::Gated(at) => at > attend,
                LinearInput::Attended => true,
            },
            Step::Gate(_) | Step::Add(_) => true,
            Step::Attend(_) | Step::Again(_) => false,
        })
    }

    fn norm(&self, at: usize) -> &NormStep {
        match &self.steps[at] {
            Step::Norm(norm) => norm,
            other => unreachable!("{other:?} is no norm"),
        }
    }

    /// How many steps leave something that backward reads whatever is adapted. After them only the low-rank inputs of adapters
    /// are left.
    fn needed_for_backward(&self) -> usize {
        let leaves = |step: &Step| match step {
            Step::Norm(_) | Step::Attend(_) => true,
            Step::Project(project) => project.is_saved(),
            Step::Gate(_) | Step::Add(_) | Step::Again(_) => false,
        };
        self.steps.iter().rposition(leaves).map_or(0, |last| last + 1)
    }

    /// Whether a step from `first` on has an adapter.
    fn adapted_from(&self, first: usize, adapter: Option<BlockAdapter<'_>>) -> bool {
        self.steps[first..].iter().any(|step| match step {
            Step::Project(project) => BlockAdapter::at(adapter, project.site).lora.is_some(),
            Step::Norm(_) | Step::Attend(_) | Step::Gate(_) | Step::Add(_) | Step::Again(_) => false,
        })
    }

    /// From `pass.back.d_hidden`, the gradient of the block's output, to that of its input, in place; adds to
    /// `gradients`. Stops after the parameters of the step `last`, if given: nothing below is trained.
    pub(crate) fn backward(
        &self,
        pass: &mut BackwardPass<'_>,
        gradients: &mut BlockGradients,
        last: Option<usize>,
    ) {
        for step in &self.steps {
            if let Step::Project(project) = step {
                project.keep_gates(pass);
            }
        }
        // A projection whose input the step below computes again on its way back.
        let mut waiting = None;
        for (i, step) in self.steps.iter().enumerate().rev() {
            if let Step::Attend(_) = step {
                pass.rejoin_rows();
            }
            match (step, &mut gradients.steps[i]) {
                (Step::Norm(norm), StepGradients::Norm(gradients)) => {
                    norm.parameter_gradients(pass, gradients)
                }
                (Step::Project(project), StepGradients::Project(gradients)) => {
                    project.output_gradients(pass, gradients);
                    let below = i.checked_sub(1).filter(|below| project.reads(*below));
                    let goes_on = below.is_some_and(|below| last.is_none_or(|last| last < below));
                    match gradients.reads_input() {
                        true if goes_on => waiting = Some((i, project)),
                        true => {
                            project.recompute_input(pass, &self.steps);
                            project.input_side_gradients(pass, gradients);
                        }
                        false => {}
                    }
                }
                (Step::Attend(attend), StepGradients::Attend(gradients)) => attend.backward(pass, gradients),
                (Step::Gate(_) | Step::Add(_) | Step::Again(_), StepGradients::None) => {}
                (step, gradients) => unreachable!("{gradients:?} for {step:?}"),
            }
            if last == Some(i) {
                return;
            }
            let waits = waiting.take_if(|(above, _)| *above == i + 1);
            match step {
                Step::Norm(norm) => norm.input_gradient(pass, waits.is_some()),
                Step::Project(project) => project.input_gradient(pass),
                Step::Gate(gate) => {
                    if let Some((above, project)) = waits
                        && let StepGradients::Project(gradients) = &mut gradients.steps[above]
                        && let Some(factor) = project.a_alone(pass, gradients)
                        && gate.backward_with_factor(pass, factor)
                    {
                        continue;
                    }
                    gate.backward(pass, waits.is_some());
                }
                Step::Add(add) => add.backward(pass),
                // What the other half adds to the gradient is added to what this one has left.
                Step::Attend(_) | Step::Again(_) => {}
            }
            if let Some((above, project)) = waits
                && let StepGradients::Project(gradients) = &mut gradients.steps[above]
            {
                project.input_side_gradients(pass, gradients);
            }
        }
    }
}

//! A range test of the learning rate (Smith 2017, arXiv 1506.01186, section 3.3): steps on the same rows at rates that grow, until
//! the loss rises. How fast a loss can be brought down depends on the data and on how long one trains; where it stops falling
//! depends on the model and the method alone, and can be found in a minute.

use lorafit_data::{Groups, Samples, SamplesBuilder};
use lorafit_model::adapter::Adapter;
use lorafit_model::{Parameters, Recompute};

use crate::trainer::{Stepper, TrainOptions};

/// From one rate to the next.
const GROWTH: f64 = 1.3;
/// The first rate, as a share of the one that is expected.
const FIRST: f64 = 1.0 / 16.0;
/// Steps at most.
const MOST_STEPS: u64 = 40;
/// Rows that are trained on, over and over, at most.
const MOST_ROWS: usize = 16;
/// A loss that is above the lowest before it by this share of the first has risen.
const RISE: f64 = 0.1;

/// A step of the test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatePoint {
    /// The learning rate of the step.
    pub rate: f64,
    /// The loss before it.
    pub loss: f64,
}

/// What was found: a curve that ends where the loss rises, if it does.
#[derive(Clone, Debug, PartialEq)]
pub struct RateTest {
    /// All steps.
    pub points: Vec<RatePoint>,
}

/// A few rows, spread over the data, which may be sorted.
fn few(samples: &Samples, groups: &Groups) -> (Samples, usize) {
    let rows = groups.len().min(MOST_ROWS);
    let mut built = SamplesBuilder::default();
    for sample in (0..rows).flat_map(|i| groups.range(i * groups.len() / rows)).map(|i| samples.sample(i)) {
        built.push(&sample.to_sample(), sample.judgement());
    }
    (built.finish(), rows)
}

/// Takes steps at growing rates around `expected`; afterwards the parameters are as they were. Blocks are computed again, so that
/// the test takes hardly more memory than the run. Judged replies are compared with the base, or with it and the adapter
/// `reference`.
pub fn rate_test(
    parameters: &mut Parameters<'_>,
    samples: &Samples,
    reference: Option<&Adapter>,
    options: &TrainOptions,
    expected: f64,
) -> RateTest {
    let (samples, rows) = &few(samples, &options.groups(samples));
    let indices: Vec<usize> = (0..*rows).collect();
    let rows = *rows;
    let mut options = TrainOptions {
        batch_size: rows,
        gradient_accumulation: 1,
        micro_batches_at_once: 1,
        ..options.clone()
    };
    options.activations.recompute = Recompute::Full;
    parameters.prepare();
    let before: Vec<Vec<f32>> =
        parameters.tensors().iter().map(|tensor| tensor.to_vec(tensor.len())).collect();
    let size = options.of_rows(samples, rows, options.micro_batch_tokens);
    let mut stepper = Stepper::new(parameters, size, &options, MOST_STEPS);
    stepper.judge(parameters, samples, reference, size, &options);
    let (mut points, mut lowest, mut rate) = (Vec::<RatePoint>::new(), f64::INFINITY, expected * FIRST);
    for number in 1..=MOST_STEPS {
        stepper.hold_rate(rate);
        let step = stepper.step(parameters, samples, &indices, number, &options);
        let loss = step.map_or(f64::INFINITY, |record| record.loss);
        points.push(RatePoint { rate, loss });
        lowest = lowest.min(loss);
        if loss > lowest + RISE * points[0].loss || loss.is_infinite() {
            break;
        }
        rate *= GROWTH;
    }
    for (tensor, values) in parameters.tensors_mut().into_iter().zip(&before) {
        tensor.write(0, values);
    }
    parameters.prepare();
    RateTest { points }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lorafit_data::Sample;
    use lorafit_kernels::Device;
    use lorafit_model::Model;
    use lorafit_model::adapter::LoraConfig;
    use lorafit_model::weights::ModelFiles;

    use super::*;
    use crate::trainer::Duration;

    #[test]
    fn rates_grow_until_the_loss_rises() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/llama");
        let model = Model::load(&ModelFiles::open(&dir).expect("opens"), Device::Cpu).expect("loads");
        let sample = |row: usize| {
            let ids: Vec<u32> = (0..12).map(|i| (3 + (row * 31 + i * 17) % 80) as u32).collect();
            Sample { supervised: ids.iter().enumerate().map(|(i, _)| i > 3).collect(), ids, row }
        };
        let samples: Samples = (1..=20).map(sample).collect();
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        let mut adapter = Adapter::init(model.config(), &lora, 1, Device::Cpu).expect("fits");
        let values = |adapter: &Adapter| -> Vec<_> { adapter.tensors().map(|t| t.to_vec(t.len())).collect() };
        let before = values(&adapter);
        let mut parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
        let options = TrainOptions::plain(Duration::Steps(1), 1.0);
        let found = rate_test(&mut parameters, &samples, None, &options, 0.02).points;
        assert!(found.len() > 8 && found.len() < MOST_STEPS as usize, "{found:?}");
        assert!(found.windows(2).all(|pair| (pair[1].rate / pair[0].rate - GROWTH).abs() < 1e-9));
        let lowest = found.iter().map(|point| point.loss).fold(f64::INFINITY, f64::min);
        let (first, last) = (found[0].loss, found[found.len() - 1].loss);
        assert!(lowest < 0.7 * first && last > lowest + RISE * first, "{found:?}");
        assert_eq!(values(&adapter), before);
    }
}

//! Block by block: decode both moments, update, step, encode. Where bitsandbytes rounds once (its fused operations),
//! this rounds once.

use rayon::prelude::*;

use super::cpu::Constants;
use super::{BLOCK_LEN, Moment8, Step};
use crate::quant::dynamic_map::{nearest, signed, unsigned};

/// Blocks of a task, at least.
const TASK_BLOCKS: usize = 16;

pub(super) fn step(
    parameter: &mut [f32],
    gradient: &[f32],
    first: &mut Moment8,
    second: &mut Moment8,
    step: &Step,
) {
    let c = Constants::of(step);
    let blocks = parameter.par_chunks_mut(BLOCK_LEN).zip(gradient.par_chunks(BLOCK_LEN));
    let [(codes1, absmax1), (codes2, absmax2)] = [first.cpu_mut(), second.cpu_mut()];
    let firsts = codes1.par_chunks_mut(BLOCK_LEN).zip(absmax1);
    let seconds = codes2.par_chunks_mut(BLOCK_LEN).zip(absmax2);
    let blocks = blocks.zip(firsts).zip(seconds).with_min_len(TASK_BLOCKS);
    blocks.for_each(|(((parameter, gradient), (codes1, absmax1)), (codes2, absmax2))| {
        let (mut m, mut v) = ([0.0f32; BLOCK_LEN], [0.0f32; BLOCK_LEN]);
        for (i, (p, g)) in parameter.iter_mut().zip(gradient).enumerate() {
            let g = g * c.scale;
            let (m_old, v_old) =
                (signed()[codes1[i] as usize] * *absmax1, unsigned()[codes2[i] as usize] * *absmax2);
            m[i] = g.mul_add(c.rest1, m_old * c.beta1);
            v[i] = (c.rest2 * g).mul_add(g, v_old * c.beta2);
            // Multiplied before it is divided, as bitsandbytes does.
            *p = *p * c.keep - c.step_size * m[i] / (v[i].sqrt() / c.correction + c.eps);
        }
        let len = parameter.len();
        encode(signed(), &m[..len], codes1, absmax1);
        encode(unsigned(), &v[..len], codes2, absmax2);
    });
}

fn encode(map: &[f32; 256], values: &[f32], codes: &mut [u8], absmax: &mut f32) {
    *absmax = values.iter().fold(0.0, |most, v| v.abs().max(most));
    for (code, value) in codes.iter_mut().zip(values) {
        *code = if *absmax > 0.0 { nearest(map, value * (1.0 / *absmax)) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::tensor::Device;
    use crate::testing::{bits, fixture, floats};

    /// Five steps of bitsandbytes 0.50.2 (`scripts/make_bnb_fixtures.py`): codes and scales bit for bit, a block whose
    /// gradient is zero at first and a partial last block included; the parameters within the ulp by which PyTorch's
    /// square root may be off.
    #[test]
    fn five_steps_equal_bitsandbytes() {
        let bytes = fixture("quant/bitsandbytes.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let data = |name: &str| file.tensor(name).expect("in the fixture").data().to_vec();
        let floats = |name: &str| floats(&file, name);
        assert!(bits(unsigned()) == bits(&floats("udynamic.quant_map")), "the unsigned map");

        let mut p = floats("adamw8.p0");
        let [mut first, mut second] = [0, 1].map(|_| Moment8::zeros(Device::Cpu, p.len()));
        for number in 1..=5 {
            let name = |part: &str| format!("adamw8.{number}.{part}");
            let settings = Step { weight_decay: 0.01, ..Step::new(number, 2e-4) };
            step(&mut p, &floats(&name("grad")), &mut first, &mut second, &settings);
            for (moment, codes, absmax) in [(&first, "state1", "absmax1"), (&second, "state2", "absmax2")] {
                assert!(
                    bits(moment.absmax().cpu()) == bits(&floats(&name(absmax))),
                    "{absmax} after step {number}"
                );
                let expected = data(&name(codes));
                let wrong = moment.codes().iter().zip(&expected).position(|(f, e)| f != e);
                assert_eq!(wrong, None, "{codes} after step {number}");
            }
            let expected = floats(&name("p"));
            // An ulp of what was added, which is up to the learning rate, or of the sum.
            for (i, (found, expected)) in p.iter().zip(&expected).enumerate() {
                let ulp = f32::EPSILON * expected.abs().max(settings.learning_rate as f32);
                assert!(
                    (found - expected).abs() <= ulp,
                    "parameter {i} after step {number}: {found}, not {expected}"
                );
            }
            // From theirs, so that an ulp does not grow.
            p = expected;
        }
    }
}

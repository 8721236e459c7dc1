//! How far the gradients of an adapter turn where products are computed in bf16 or int8: the cosine with those in f32, by tensor.
//!
//! `cargo run --release -p lorafit-train --example gradient_cosines MODEL ADAPTER DATA [ROWS [BATCHES]]`
//!
//! ADAPTER is the folder of a trained adapter: in a fresh one half of the gradients are zero. Rows are taken in order, ROWS to
//! a batch (4), as many batches as there are, 10 at most unless it is said. Prints the worst tensors and the losses.

use std::path::Path;

use lorafit_data::{Dataset, Options, Samples};
use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_kernels::ops::cross_entropy::{Objective, Target};
use lorafit_kernels::{ComputeDtype, Device};
use lorafit_model::adapter::{self, Adapter, named_tensors};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{ActivationPolicy, Buffers, Gradients, Model, Stream};
use lorafit_train::{median, open_tokenizer};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model_path, adapter_path, data_path, numbers @ ..] = &arguments[..] else {
        panic!("give MODEL ADAPTER DATA [ROWS [BATCHES]]");
    };
    let number = |place: usize, otherwise: usize| {
        numbers.get(place).map_or(otherwise, |n| n.parse().expect("a number"))
    };
    let (rows, batches) = (number(0, 4), number(1, 10));
    let files = ModelFiles::open(Path::new(model_path)).expect("the model opens");
    let tokenizer = open_tokenizer(&files).expect("the tokenizer opens");
    let mut model = Model::load(&files, Device::Cpu).expect("the model loads");
    let adapter =
        adapter::load(Path::new(adapter_path), model.config(), Device::Cpu).expect("the adapter loads");
    let data =
        Dataset::load(Path::new(data_path), &tokenizer, Options::default()).expect("the rows are read");
    let count = (data.samples.len() / rows).min(batches);
    let mut exact = Vec::new();
    for dtype in [ComputeDtype::F32, ComputeDtype::Bf16, ComputeDtype::Int8] {
        model.set_compute_dtype(dtype);
        let found: Vec<Found> = (0..count)
            .map(|batch| gradients(&model, &adapter, &data.samples, batch * rows..(batch + 1) * rows))
            .collect();
        if dtype == ComputeDtype::F32 {
            exact = found;
            continue;
        }
        let mut cosines: Vec<(f64, String)> = Vec::new();
        let mut off: f64 = 0.0;
        for ((loss, tensors), (exact_loss, exact_tensors)) in found.iter().zip(&exact) {
            off = off.max((loss / exact_loss - 1.0).abs());
            for ((name, values), (_, exact)) in tensors.iter().zip(exact_tensors) {
                cosines.push((cosine(values, exact), name.clone()));
            }
        }
        cosines.sort_by(|a, b| a.0.total_cmp(&b.0));
        let median = median(cosines.iter().map(|cosine| cosine.0)).expect("one batch or more");
        let below = cosines.iter().filter(|(cosine, _)| *cosine < 0.999).count();
        println!(
            "{dtype:?}: {count} batches of {rows}, {} cosines, median {median:.6}, {below} below 0.999; loss off by {:.3} % at most",
            cosines.len(),
            100.0 * off
        );
        for (cosine, name) in cosines.iter().take(6) {
            println!("    {cosine:.6}  {name}");
        }
    }
}

/// A loss, and gradients by the names of their tensors.
type Found = (f64, Vec<(String, Vec<f32>)>);

/// Loss and gradients of a batch as one stream whose rows share nothing.
fn gradients(model: &Model, adapter: &Adapter, samples: &Samples, rows: std::ops::Range<usize>) -> Found {
    let (mut ids, mut positions, mut targets, mut segments) = (vec![], vec![], vec![], vec![]);
    for row in rows {
        let sample = samples.sample(row);
        let start = ids.len();
        segments.push(Segment { start, len: sample.ids.len(), parent: None });
        ids.extend_from_slice(sample.ids);
        positions.extend(0..sample.ids.len() as u32);
        for i in sample.supervised().flatten() {
            targets.push(Target { row: (start + i - 1) as u32, id: sample.ids[i], weight: 1.0 });
        }
    }
    let segments = Segments::new(segments, ids.len()).expect("contiguous");
    let mut gradients = Gradients::new(model, Some(adapter));
    let size = (ids.len(), targets.len());
    let mut buffers =
        Buffers::for_training(model, Some(adapter), &gradients, size.0, size.1, ActivationPolicy::default());
    let stream =
        Stream { ids: &ids, positions: &positions, segments: &segments, targets: &targets, below: 0 };
    let objective = Objective { scale: 1.0 / targets.len() as f32, smoothing: 0.0 };
    let losses =
        model.loss_and_gradient(Some(adapter).into(), stream, objective, &mut buffers, &mut gradients);
    let loss = losses.total() / targets.len() as f64;
    let named = named_tensors(adapter, gradients.tensors());
    (loss, named.into_iter().map(|tensor| (tensor.name, tensor.values)).collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

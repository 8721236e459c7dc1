//! What training changed: sizes, spectra and directions of every dW, and what factors are made of.

use std::collections::BTreeMap;

use lorafit_model::adapter::analysis::{Subspaces, Update};
use lorafit_model::adapter::{AdapterFile, Factors};
use lorafit_train::median;
use rayon::prelude::*;

use super::{Report, slug};
use crate::pages::figure::{Axis, Colour, Figure, HeatMap, Lines, Name, Plot, Series, Style, measured};
use crate::pages::shell::{sentence, table};
use crate::session::adapter_numbers::{LayerNumbers, NoAdvice, OverlapNumbers, modules, modules_of, verdict};

/// Bars of a distribution.
const BINS: usize = 61;
/// Rows of dW that are computed of each layer.
const SAMPLED_ROWS: usize = 8;
/// Directions of an update that are told one by one.
const DIRECTIONS: usize = 32;

/// Adds the figures of one adapter, called `name`: as a part of the section if there are several.
pub fn add(
    report: &mut Report,
    (name, is_alone): (&str, bool),
    adapter: &AdapterFile,
    layers: &[LayerNumbers],
) {
    if !is_alone {
        report.part(name);
    }
    let no_advice = NoAdvice::of(&adapter.path);
    let said = sentence(&verdict(layers, no_advice.as_ref()));
    report.note(&match no_advice {
        Some(_) => said,
        None => format!(
            "{said} This is a sign, not a proof: train with another rank and compare the held-out losses."
        ),
    });
    for beside in &adapter.beside {
        report.note(&format!("Not shown here: {beside}."));
    }
    let relative = layers.iter().any(|layer| layer.relative_norm.is_some());
    if !relative {
        report.note("The base is not on this machine (--model names it), so changes are not shown as a share of the weights.");
    }
    let title = "Which layers change most";
    let size = match relative {
        true => {
            let of_weight = Name::new("‖dW‖ / ‖W‖, %", "relative_norm_percent");
            heat_map(name, layers, "change", title, of_weight, |l| l.relative_norm.map(|share| 100.0 * share))
        }
        false => heat_map(name, layers, "change", title, Name::new("‖dW‖", "norm"), |l| Some(l.norm)),
    };
    let directions = Name::new("directions used", "effective_rank");
    let used = heat_map(name, layers, "effective_rank", "Effective rank of dW", directions, |l| {
        Some(l.effective_rank)
    });
    report.figures(vec![size, used]);
    report.html(&medians(layers));
    report.note(
        "Spectra: a curve that falls steeply suggests that a smaller rank would do; a level one, that the rank is too small.",
    );
    report.figures(modules_of(layers).into_iter().map(|module| spectrum(name, layers, module)).collect());
    report.figures(distributions(name, adapter));
}

fn figure(run: &str, name: &str, title: &str, description: &str, plot: Plot) -> Figure {
    let name = format!("{}-{name}", slug(run));
    Figure { name, title: title.to_owned(), description: description.to_owned(), plot }
}

/// A value for each layer and module.
fn heat_map(
    run: &str,
    layers: &[LayerNumbers],
    name: &str,
    title: &str,
    of_value: Name,
    value: impl Fn(&LayerNumbers) -> Option<f64>,
) -> Figure {
    let mut numbers: Vec<Option<usize>> = layers.iter().map(|layer| layer.layer).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let cells: BTreeMap<(&str, Option<usize>), Option<f64>> =
        layers.iter().map(|layer| ((layer.module.as_str(), layer.layer), value(layer))).collect();
    let row = |module: &str| {
        let values = numbers.iter().map(|number| cells.get(&(module, *number)).copied().flatten());
        (module.to_owned(), values.collect())
    };
    let (description, range) = match name {
        "change" if of_value.column == "norm" => {
            ("Frobenius norm of the update dW of each weight. Brighter is larger.", None)
        }
        "change" => (
            "Frobenius norm of the update dW of each weight W, in per cent of that of W. Brighter is larger.",
            None,
        ),
        "effective_rank" => (
            "How many directions each dW uses: the exponential of the entropy of its singular values (Roy and Vetterli 2007).",
            None,
        ),
        _ => (
            "Similarity of the subspaces of both updates (Hu et al. 2021, section 7.2): 1 where one contains the other, near 0 for \
             random ones.",
            Some([0.0, 1.0]),
        ),
    };
    let map = HeatMap {
        x: Name::new("layer", "layer"),
        y: Name::new("module", "module"),
        columns: numbers.iter().map(|number| number.map_or("-".to_owned(), |n| n.to_string())).collect(),
        rows: modules_of(layers).into_iter().map(row).collect(),
        value: of_value,
        range,
    };
    figure(run, name, title, description, Plot::HeatMap(map))
}

fn medians(layers: &[LayerNumbers]) -> String {
    let row = |module: &str| {
        let of = |value: fn(&LayerNumbers) -> f64| {
            median(layers.iter().filter(|layer| layer.module == module).map(value)).unwrap_or_default()
        };
        let relative = median(layers.iter().filter(|l| l.module == module).filter_map(|l| l.relative_norm));
        vec![
            module.to_owned(),
            layers.iter().filter(|layer| layer.module == module).count().to_string(),
            measured(of(|layer| layer.norm), 4),
            relative.map_or("-".to_owned(), |share| format!("{} %", measured(100.0 * share, 3))),
            format!("{:.2}", of(|layer| layer.effective_rank)),
            format!("{:.2}", of(|layer| layer.stable_rank)),
        ]
    };
    let columns = ["module", "layers", "‖dW‖", "‖dW‖ / ‖W‖", "effective rank", "stable rank"];
    table("Medians over layers", &columns, modules_of(layers).into_iter().map(row))
}

/// The singular values of every dW of a module, a line a layer, the later the brighter.
fn spectrum(run: &str, layers: &[LayerNumbers], module: &str) -> Figure {
    let of_module: Vec<&LayerNumbers> = layers.iter().filter(|layer| layer.module == module).collect();
    let last = of_module.len().saturating_sub(1).max(1);
    let line = |(i, layer): (usize, &&LayerNumbers)| {
        let largest = layer.singular_values.first().copied().unwrap_or(0.0);
        // What is rounding of the largest has no place on a logarithmic axis.
        let kept = layer.singular_values.iter().take_while(|s| **s > 1e-9 * largest);
        let points = kept.enumerate().map(|(i, s)| ((i + 1) as f64, *s)).collect();
        let name = layer.layer.map_or(layer.path.clone(), |number| format!("layer {number}"));
        Series {
            colour: Colour::Shade(i as f64 / last as f64),
            ..Series::new(&name, 0, Style::Solid, points)
        }
    };
    let series: Vec<Series> = of_module.iter().enumerate().map(line).collect();
    let order = match &series[..] {
        [first, .., last] => Some([first.name.clone(), last.name.clone()]),
        [] | [_] => None,
    };
    let x = Axis::linear("index of the singular value", "number").whole();
    let y = Axis::log("singular value of dW", "singular_value");
    let plot = Plot::Lines(Lines { order, ..Lines::new(x, y, series) });
    let title = format!("Spectrum of {module}");
    let description = "Singular values of dW, the largest first; one line per layer.";
    figure(run, &format!("spectrum-{}", slug(module)), &title, description, plot)
}

/// Values of factors or of their product.
type Entries = fn(&Factors) -> Vec<f32>;

/// How often values are how large, by module, of A, of B and of dW.
fn distributions(run: &str, adapter: &AdapterFile) -> Vec<Figure> {
    let kinds: [(&str, &str, Entries); 3] = [
        ("A", "How the entries of the factors A are distributed.", |factors| factors.a.clone()),
        ("B", "How the entries of the factors B are distributed, which usually begin at zero.", |factors| {
            factors.b.clone()
        }),
        (
            "dW",
            "How the entries of dW = scale · B · A are distributed, of 8 evenly spaced rows of each.",
            sampled_rows,
        ),
    ];
    kinds.map(|(name, description, entries)| distribution(run, adapter, name, description, entries)).into()
}

/// Entries of some rows of dW.
fn sampled_rows(factors: &Factors) -> Vec<f32> {
    let Factors { outputs, inputs, rank, scale, a, b, .. } = factors;
    let count = SAMPLED_ROWS.min(*outputs);
    let mut rows = vec![0.0; count * inputs];
    for (i, row) in rows.chunks_exact_mut(*inputs).enumerate() {
        let from = i * outputs / count * rank;
        for (weight, direction) in b[from..from + rank].iter().zip(a.chunks_exact(*inputs)) {
            let weight = *scale as f32 * weight;
            row.iter_mut().zip(direction).for_each(|(entry, value)| *entry += weight * value);
        }
    }
    rows
}

fn distribution(run: &str, adapter: &AdapterFile, name: &str, description: &str, entries: Entries) -> Figure {
    let names = modules(adapter.factors.iter().map(|factors| factors.module.as_str()));
    // Four standard deviations of the widest module, so that all stand on one axis.
    let square = |factors: &Factors| {
        let values = entries(factors);
        values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len().max(1) as f64
    };
    let widest = adapter.factors.par_iter().map(square).reduce(|| 0.0, f64::max);
    let reach = if widest > 0.0 { 4.0 * widest.sqrt() } else { 1.0 };
    let count = |module: &str| {
        let of_module = adapter.factors.par_iter().filter(|factors| factors.module == module);
        let add = |mut counts: Vec<u64>, factors: &Factors| {
            for value in entries(factors) {
                let place = (f64::from(value) / reach + 1.0) / 2.0;
                if (0.0..1.0).contains(&place) {
                    counts[(place * BINS as f64) as usize] += 1;
                }
                counts[BINS] += 1;
            }
            counts
        };
        let sum = |mut one: Vec<u64>, other: Vec<u64>| {
            one.iter_mut().zip(other).for_each(|(one, other)| *one += other);
            one
        };
        of_module.fold(|| vec![0; BINS + 1], add).reduce(|| vec![0; BINS + 1], sum)
    };
    let series = names.iter().enumerate().map(|(i, module)| {
        let counts = count(module);
        let all = counts[BINS].max(1) as f64;
        let middle = |bin: usize| (2.0 * (bin as f64 + 0.5) / BINS as f64 - 1.0) * reach;
        let points = counts[..BINS].iter().enumerate().map(|(bin, n)| (middle(bin), 100.0 * *n as f64 / all));
        Series::new(module, i, Style::Solid, points.collect())
    });
    let x = Axis::linear(&format!("value of an entry of {name}"), "entry");
    let y = Axis::linear("share of the entries, %", "share_percent");
    let plot = Plot::Lines(Lines::new(x, y, series.collect()));
    figure(run, &format!("entries-{name}"), &format!("Entries of {name}"), description, plot)
}

/// Adds what two adapters have in common; the numbers are of the layers of `one`.
pub fn add_overlap(report: &mut Report, one: &str, other: &str, layers: &[LayerNumbers]) {
    let side =
        |pick: fn(&OverlapNumbers) -> f64| move |layer: &LayerNumbers| layer.overlap.as_ref().map(pick);
    let name = format!("{one}-{other}");
    let chance = median(layers.iter().filter_map(|l| Some(l.overlap.as_ref()?.outputs.by_chance)));
    report.part(&format!("{one} and {other}"));
    report.note(&format!(
        "Random subspaces of the same sizes have a similarity of about {:.3} (median over layers). Runs with the same random seed \
         start from the same A, so their input directions may be similar for that reason alone.",
        chance.unwrap_or_default()
    ));
    report.figures(vec![
        heat_map(
            &name,
            layers,
            "alike_outputs",
            "Similarity of output directions",
            Name::new("similarity", "similarity"),
            side(|o| o.outputs.similarity),
        ),
        heat_map(
            &name,
            layers,
            "alike_inputs",
            "Similarity of input directions",
            Name::new("similarity", "similarity"),
            side(|o| o.inputs.similarity),
        ),
        angles(&name, layers),
    ]);
}

/// Adds how alike the directions of two updates of one layer are, by how many of each are taken.
pub fn add_directions(
    report: &mut Report,
    (one, file): (&str, &AdapterFile),
    (other, other_file): (&str, &AdapterFile),
    layer: &str,
) {
    let update = |file: &AdapterFile| file.factors.iter().find(|f| f.path == layer).map(Update::of);
    let changed = |file| update(file).filter(|update| update.rank() > 0);
    let (Some(first), Some(second)) = (changed(file), changed(other_file)) else {
        report.note(&format!("{layer} has no directions to compare: one of the runs did not change it."));
        return;
    };
    let overlap = first.overlap(&second);
    let figure = |side, subspaces| directions((one, other), layer, side, subspaces);
    report.figures(vec![figure("output", &overlap.outputs), figure("input", &overlap.inputs)]);
}

/// Hu et al. 2021, figure 3.
fn directions((one, other): (&str, &str), layer: &str, side: &str, subspaces: &Subspaces) -> Figure {
    let (rows, columns) = subspaces.sizes();
    let counts = |most: usize| 1..=most.min(DIRECTIONS);
    let row = |i: usize| (i.to_string(), counts(columns).map(|j| Some(subspaces.similarity(i, j))).collect());
    let map = HeatMap {
        x: Name::new(&format!("j: strongest directions of {other}"), "directions_j"),
        y: Name::new(&format!("i: strongest directions of {one}"), "directions_i"),
        columns: counts(columns).map(|j| j.to_string()).collect(),
        rows: counts(rows).map(row).collect(),
        value: Name::new("similarity", "similarity"),
        range: Some([0.0, 1.0]),
    };
    let title = format!("Similarity of the strongest {side} directions");
    let description = format!(
        "{layer}: similarity of the subspaces of the i strongest directions of {one} and the j strongest of {other} (Hu et al. 2021, \
         section 7.2); 1 where one contains the other. --layer chooses another layer."
    );
    figure(&format!("{one}-{other}"), &format!("directions_{side}"), &title, &description, Plot::HeatMap(map))
}

fn angles(name: &str, layers: &[LayerNumbers]) -> Figure {
    let line = |(i, module): (usize, &str)| {
        let of_module = || layers.iter().filter(|l| l.module == module).filter_map(|l| l.overlap.as_ref());
        let most = of_module().map(|o| o.outputs.angles_degrees.len()).max().unwrap_or(0);
        let at = |n: usize| median(of_module().filter_map(|o| o.outputs.angles_degrees.get(n).copied()));
        let points = (0..most).filter_map(|n| Some(((n + 1) as f64, at(n)?))).collect();
        Series::new(module, i, Style::Dotted, points)
    };
    let series = modules_of(layers).into_iter().enumerate().map(line).collect();
    let x = Axis::linear("index of the angle", "number").whole();
    let plot = Plot::Lines(Lines::new(x, Axis::linear("principal angle, degrees", "angle_degrees"), series));
    let description = "Angles between the output directions of both runs, medians over layers: 0 for a direction that both runs have, \
                       90 for one that only one of them has.";
    figure(name, "angles", "Principal angles", description, plot)
}

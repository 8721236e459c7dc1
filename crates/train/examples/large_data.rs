//! What a dataset larger than memory costs once it is tokenised: writes random samples to a file and takes the passes of
//! a run over it, with time and resident memory after each.
//!
//!     cargo run --release -p lorafit-train --example large_data -- GIGABYTES FOLDER

use std::path::PathBuf;
use std::time::Instant;

use lorafit_data::samples::file::{SamplesWriter, open};
use lorafit_data::{Dataset, Order, Origin, Report, Sample, Shape, Statistics};
use lorafit_kernels::random::mix;
use lorafit_train::{Duration, TrainOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let gigabytes: f64 = arguments.next().ok_or("how many gigabytes?")?.parse()?;
    let folder = PathBuf::from(arguments.next().ok_or("in which folder?")?);
    let mut started = Instant::now();
    let mut told = move |what: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
            kib.unwrap_or(f64::NAN) * 1024.0 / 1e6
        };
        println!(
            "{what}: {:.1} s; allocated {:.0} MB, of mapped files {:.0} MB, most resident so far {:.0} MB",
            started.elapsed().as_secs_f64(),
            megabytes("RssAnon:"),
            megabytes("RssFile:"),
            megabytes("VmHWM:")
        );
        started = Instant::now();
    };

    let mut writer = SamplesWriter::new(&folder)?;
    let (mut row, mut tokens, mut supervised_tokens, mut longest) = (0, 0, 0, 0);
    while (tokens * 4) as f64 / 1e9 < gigabytes {
        // Every twentieth is an earlier one.
        let of = if row % 20 == 19 { row / 2 } else { row };
        let len = 60 + (mix(of as u64) % 420) as usize;
        let ids: Vec<u32> = (0..len as u64).map(|i| (mix(of as u64 ^ i << 32) % 49_152) as u32).collect();
        let supervised = (0..len).map(|i| i >= len / 3 && i + 1 < len).collect();
        row += 1;
        let sample = Sample { ids, supervised, row };
        writer.push(&sample, None)?;
        tokens += len;
        supervised_tokens += sample.supervised_tokens();
        longest = longest.max(len);
    }
    let (file, samples) = writer.finish(b"")?;
    drop(samples);
    println!("{row} samples, {tokens} tokens, {} bytes", file.path().metadata()?.len());
    told("written");
    let samples = open(file.path())?.0;
    told("opened and checked");
    let report = Report {
        shapes: vec![Shape::Chat],
        rows: row,
        samples: row,
        tokens,
        supervised_tokens,
        longest,
        ..Report::default()
    };
    let data = Dataset { samples, report, origin: Origin::default() };
    let options = TrainOptions { batch_size: 16, ..TrainOptions::plain(Duration::Epochs(1.0), 1e-4) };
    let size = options.micro_batch_size(&data, None);
    told(&format!(
        "{} steps, micro-batches of {} tokens",
        options.total_steps(data.samples.len()),
        size.tokens
    ));
    let order = Order::Shuffled { seed: 0 }.epoch(data.samples.len(), 0);
    told("shuffled");
    let read: usize = order.iter().take(1_000_000).map(|i| data.samples.sample(*i).inputs().len()).sum();
    told(&format!("a million samples in random order, {read} inputs"));
    drop(order);
    let statistics = Statistics::of(&data, 8);
    told(&format!("statistics, {} repetitions", statistics.duplicates));
    Ok(())
}

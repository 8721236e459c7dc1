//! A decoder-only language model: embedding, blocks, final norm, head; loss with gradients of what is trained, and
//! cached decoding.

use std::ops::Range;

use lorafit_kernels::ops::attention::Segments;
use lorafit_kernels::ops::cross_entropy::{self, Objective, Target};
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::ops::matmul::{self, Base, Product, Right, Term, View};
use lorafit_kernels::ops::{elementwise, embedding, noise};
use lorafit_kernels::{ComputeDtype, Device, Tensor, Weight};

use crate::adapter::{Adapter, EmbeddingFactors, GroupGradients, LoraGroup};
use crate::block::Block;
use crate::block::gradients::{BlockGradients, of_matrix};
use crate::block::pass::{BackwardPass, BlockAdapter, Context, Extent, ForwardPass, RowsAdapter};
use crate::buffers::{ActivationPolicy, BufferShape, Buffers, HeadBuffers};
use crate::gradients::{Gradients, Place};
use crate::kv_cache::{KvCache, Run};
use crate::norm::{Norm, NormGradients};
use crate::reward;
use crate::shape::{Config, Module, StreamAt};

/// A model over weights as their files store them, or trained ([`Model::train`]).
#[derive(Debug)]
pub struct Model {
    pub(crate) config: Config,
    pub(crate) device: Device,
    /// `[vocab, hidden]`.
    pub(crate) embedding: Weight,
    /// A vector for each position, `[context, hidden]`, where they are learned.
    pub(crate) positions: Option<Weight>,
    pub(crate) blocks: Vec<Block>,
    /// Before the head.
    pub(crate) norm: Norm,
    /// `[vocab, hidden]`, or `[labels, hidden]` of a model that scores texts; none where the embedding is the head.
    pub(crate) own_head: Option<Weight>,
    /// Of a model with more rows than its files: what is added to logits, `[vocab]`, so that a token which only an adapter knows is
    /// never likely without one.
    pub(crate) unknown: Option<Tensor>,
    /// Of each of the shape's rotations, unless they depend on the length of a text.
    pub(crate) frequencies: Vec<Option<Vec<f32>>>,
}

/// Noise on embeddings while training (NEFTune, Jain et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingNoise {
    /// Noise is uniform up to `alpha / sqrt(tokens * hidden)`, with the tokens of the text; of texts that share a token, of the
    /// longest.
    pub alpha: f32,
    /// Where it is drawn from; it differs in every pass.
    pub seed: u64,
}

/// The adapter that a pass computes with, if there is one, and what chance does in it: what of the adapter's inputs is dropped, and
/// what is added to embeddings.
#[derive(Clone, Copy, Debug, Default)]
pub struct ActiveAdapter<'a> {
    /// The adapter.
    pub adapter: Option<&'a Adapter>,
    /// Drops values of the adapter's inputs; it differs in every pass.
    pub mask: Option<Mask>,
    /// Is added to what the first block reads.
    pub noise: Option<EmbeddingNoise>,
}

impl<'a> From<Option<&'a Adapter>> for ActiveAdapter<'a> {
    /// Nothing is dropped or added.
    fn from(adapter: Option<&'a Adapter>) -> Self {
        ActiveAdapter { adapter, mask: None, noise: None }
    }
}

impl<'a> ActiveAdapter<'a> {
    /// That of the block of layer `layer`.
    fn of_block(self, layer: usize) -> Option<BlockAdapter<'a>> {
        let mask = self.mask.map(|mask| mask.derive(layer as u64));
        self.adapter.map(|adapter| BlockAdapter {
            groups: &adapter.layers[layer],
            norms: adapter.saved.blocks.get(layer).map_or(&[], |norms| &norms[..]),
            mask,
        })
    }
}

/// A stream of tokens to compute at once.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Position of each token in its sample.
    pub positions: &'a [u32],
    /// What attends to what.
    pub segments: &'a Segments,
    /// What is predicted, sorted by row.
    pub targets: &'a [Target],
    /// How many of the lowest blocks are not computed, since their output is in the buffers already ([`Buffers::put_rows`]). Neither
    /// they nor the embedding are trained or adapted.
    pub below: usize,
}

/// The losses of a stream's targets, where they were computed: a GPU may still be at it until they are read.
#[derive(Debug)]
pub struct Losses {
    values: Tensor,
    weights: Vec<f32>,
}

impl Losses {
    fn new(device: Device, targets: &[Target]) -> Self {
        let weights = targets.iter().map(|target| target.weight).collect();
        Losses { values: Tensor::zeros(device, targets.len()), weights }
    }

    /// The loss of each target, not weighted.
    pub fn to_vec(&self) -> Vec<f32> {
        self.values.to_vec(self.values.len())
    }

    /// Their sum, each with the weight of its target: an equal one of several samples is counted for each.
    pub fn total(&self) -> f64 {
        let losses = self.to_vec();
        self.weights.iter().zip(losses).map(|(&weight, loss)| f64::from(weight) * f64::from(loss)).sum()
    }
}

impl Gradients {
    /// Zeros for every factor of `adapter` and every weight of `model` that is trained.
    pub fn new(model: &Model, adapter: Option<&Adapter>) -> Self {
        let active = ActiveAdapter::from(adapter);
        let lens: Vec<usize> =
            adapter.into_iter().flat_map(Adapter::factor_tensors).map(Tensor::len).collect();
        let mut of_factors = Tensor::zeros_together(model.device, &lens, false).into_iter();
        let blocks = model.blocks.iter().enumerate();
        let blocks = blocks
            .map(|(layer, block)| BlockGradients::new(block, active.of_block(layer), &mut of_factors))
            .collect();
        let head_factors = adapter.and_then(|adapter| adapter.head.as_ref());
        let head_factors = head_factors.map(|group| GroupGradients::of(group, &mut of_factors));
        let embedding_factors = adapter.and_then(|adapter| adapter.embedding.as_ref());
        let embedding_factors = embedding_factors.map(|factors| {
            let of_b = of_factors.next().expect("zeros for every factor");
            [of_b, factors.a_t.trained().expect("rows that are trained").zeros_like()]
        });
        let tokens = adapter
            .map_or([None, None], |adapter| [adapter.tokens.embedding.as_ref(), adapter.tokens.own_head()]);
        Gradients {
            tokens: tokens.map(|rows| rows.map(|rows| rows.tensor().zeros_like())),
            embedding: of_matrix(model.embedding_with(adapter)),
            positions: model.positions.as_ref().and_then(of_matrix),
            blocks,
            embedding_factors,
            head_factors,
            norm: NormGradients::of(model.norm_with(adapter)),
            head: match model.has_tied_head(adapter) {
                true => None,
                false => of_matrix(model.head_with(adapter)),
            },
        }
    }
}

impl Buffers {
    /// Writes what the lowest blocks make of the tokens from `first` on, `[tokens, hidden]`, for a stream that begins
    /// [above them](Stream::below).
    ///
    /// # Panics
    /// When the buffers have not so many rows.
    pub fn put_rows(&mut self, first: usize, rows: &[f32]) {
        self.hidden.write(first * self.scratch.hidden_size, rows);
    }

    /// Buffers for computing `gradients` of `model` and `adapter` on batches of up to `tokens` tokens, `targets` of which
    /// predict something.
    pub fn for_training(
        model: &Model,
        adapter: Option<&Adapter>,
        gradients: &Gradients,
        tokens: usize,
        targets: usize,
        activations: ActivationPolicy,
    ) -> Self {
        let config = model.config();
        let first_trained = gradients.blocks_below();
        let shape = BufferShape {
            train: true,
            targets,
            first_trained,
            drops: adapter.is_some_and(|adapter| adapter.config().dropout > 0.0),
            activations,
            ..BufferShape::of(config, adapter, tokens)
        };
        Buffers::new(config, &shape, model.device())
    }
}

impl Model {
    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the model computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Says how products with the matrices are computed, the head's too, but for int8, where it is bf16: what is rounded
    /// there is not averaged by anything behind it. What an adapter adds, gradients of weights, attention, norms and the
    /// loss are always f32.
    pub fn set_compute_dtype(&mut self, dtype: ComputeDtype) {
        for block in &mut self.blocks {
            block.set_compute_dtype(dtype);
        }
        let of_head = match dtype {
            ComputeDtype::F32 | ComputeDtype::Bf16 => dtype,
            ComputeDtype::Int8 => ComputeDtype::Bf16,
        };
        self.own_head.as_mut().unwrap_or(&mut self.embedding).set_compute_dtype(of_head);
    }

    /// How products with the matrices of blocks are computed.
    pub fn compute_dtype(&self) -> ComputeDtype {
        let of_blocks = self.blocks.iter().flat_map(Block::groups).flat_map(|group| &group.projections);
        of_blocks.map(|linear| linear.weight.compute_dtype()).next().unwrap_or(self.head().compute_dtype())
    }

    /// The weight of a projection.
    pub(crate) fn projection(&self, layer: usize, module: Module) -> &Weight {
        let group = self.blocks[layer].groups().nth(module.site()).expect("a module is of its model");
        &group.projections[module.projection()].weight
    }

    /// `[vocab, hidden]`.
    pub(crate) fn head(&self) -> &Weight {
        self.own_head.as_ref().unwrap_or(&self.embedding)
    }

    /// The embedding that computes: the model's, or the copy that the adapter trains.
    fn embedding_with<'a>(&'a self, adapter: Option<&'a Adapter>) -> &'a Weight {
        adapter.and_then(|adapter| adapter.saved.embedding.as_ref()).unwrap_or(&self.embedding)
    }

    /// As [`Model::embedding_with`], of the head.
    fn head_with<'a>(&'a self, adapter: Option<&'a Adapter>) -> &'a Weight {
        let saved = adapter.map(|adapter| &adapter.saved);
        let copy =
            saved.and_then(|saved| if saved.ties { saved.embedding.as_ref() } else { saved.head.as_ref() });
        copy.unwrap_or_else(|| self.head())
    }

    /// As [`Model::embedding_with`], of the norm before the head.
    fn norm_with<'a>(&'a self, adapter: Option<&'a Adapter>) -> &'a Norm {
        adapter.and_then(|adapter| adapter.saved.norm.as_ref()).unwrap_or(&self.norm)
    }

    /// Whether one matrix is embedding and head.
    fn has_tied_head(&self, adapter: Option<&Adapter>) -> bool {
        std::ptr::eq(self.embedding_with(adapter), self.head_with(adapter))
    }

    /// The loss of each target, `-log p(id | what the row sees)`. A model that gives a text one number has the negative of that number as
    /// its loss.
    ///
    /// # Panics
    /// When the stream is larger than the buffers or names tokens outside the vocabulary.
    pub fn loss(&self, adapter: Option<&Adapter>, stream: Stream<'_>, buffers: &mut Buffers) -> Losses {
        let adapter = ActiveAdapter::from(adapter);
        self.on_pool(|| {
            let needed = Needed::of(self, adapter, stream);
            self.forward_to(adapter, stream, needed.rows(), buffers);
            self.row_losses(adapter.adapter, needed.targets(stream), buffers)
        })
    }

    /// The losses of targets whose rows are those of the blocks' output in `buffers`: after [`Model::forward`], of the stream.
    pub fn row_losses(&self, adapter: Option<&Adapter>, targets: &[Target], buffers: &mut Buffers) -> Losses {
        let mut losses = Losses::new(self.device, targets);
        for Chunk { first, rows, targets } in Chunks::new(targets, buffers.head.rows) {
            self.logits(adapter, &rows, &buffers.hidden, &mut buffers.head);
            self.losses_of(&buffers.head.logits, rows.len(), &targets, &mut losses.values, first);
        }
        losses
    }

    /// Writes the loss of each target of a chunk from place `first` on: of a head that gives one number of a text, the negative of
    /// that, as there is nothing that it could be likelier than.
    fn losses_of(&self, logits: &Tensor, rows: usize, targets: &[Target], losses: &mut Tensor, first: usize) {
        match self.config.labels {
            Some(1) => reward::loss(logits, rows, targets, losses, first),
            Some(_) | None => {
                cross_entropy::loss(logits, rows, self.config.outputs(), targets, losses, first);
            }
        }
    }

    /// As [`Model::losses_of`], and overwrites the logits with the gradient of the `objective`.
    fn losses_and_gradient_of(
        &self,
        logits: &mut Tensor,
        rows: usize,
        Chunk { targets, first, .. }: &Chunk,
        objective: Objective,
        losses: &mut Tensor,
    ) {
        match self.config.labels {
            Some(1) => reward::loss_and_gradient(logits, rows, targets, objective.scale, losses, *first),
            Some(_) | None => {
                let outputs = self.config.outputs();
                cross_entropy::loss_and_gradient(logits, rows, outputs, targets, objective, losses, *first);
            }
        }
    }

    /// What the head says of the last token of each text, `[targets, labels]`: a target is of a text, at its last token.
    ///
    /// # Panics
    /// As [`Model::loss`], and where the model does not score texts.
    pub fn scores(&self, adapter: Option<&Adapter>, stream: Stream<'_>, buffers: &mut Buffers) -> Vec<f32> {
        assert!(self.config.labels.is_some(), "the model scores no texts");
        self.forward(adapter.into(), stream, buffers);
        let rows: Vec<u32> = stream.targets.iter().map(|target| target.row).collect();
        self.row_logits(adapter, &rows, buffers)
    }

    /// As [`Model::loss`], but of the `objective`, and adds the gradient of `scale * sum(weight * loss)` to `gradients`, which are
    /// of this model and this adapter.
    ///
    /// # Panics
    /// As [`Model::loss`], and when `buffers` were not made for training.
    pub fn loss_and_gradient(
        &self,
        adapter: ActiveAdapter<'_>,
        stream: Stream<'_>,
        objective: impl Into<Objective>,
        buffers: &mut Buffers,
        gradients: &mut Gradients,
    ) -> Losses {
        let objective = objective.into();
        self.on_pool(|| {
            let needed = Needed::of(self, adapter, stream);
            self.forward_to(adapter, stream, needed.rows(), buffers);
            let (targets, tokens) = (needed.targets(stream), needed.count(stream));
            let task = HeadTask { targets, tokens, objective, logits: Logits::ToCompute };
            let losses = self.head_backward(adapter.adapter, task, buffers, gradients);
            self.blocks_backward(adapter, (stream, needed.rows()), buffers, gradients);
            losses
        })
    }

    /// As [`Model::loss_and_gradient`], of a loss that is any function of the targets' losses: `weigh` is given those and says what
    /// each weighs, its derivative by them. The weights that targets have already are passed over.
    ///
    /// # Panics
    /// As [`Model::loss_and_gradient`], and where there is not a weight for each target.
    pub fn loss_and_gradient_weighed(
        &self,
        adapter: ActiveAdapter<'_>,
        stream: Stream<'_>,
        weigh: impl FnOnce(&[f32]) -> Vec<f32>,
        buffers: &mut Buffers,
        gradients: &mut Gradients,
    ) {
        let needed = Needed::of(self, adapter, stream);
        let losses = self.on_pool(|| {
            self.forward_to(adapter, stream, needed.rows(), buffers);
            self.row_losses(adapter.adapter, needed.targets(stream), buffers)
        });
        let weights = weigh(&losses.to_vec());
        assert_eq!(weights.len(), stream.targets.len(), "a weight for each target");
        let targets = needed.targets(stream).iter().zip(weights);
        let targets: Vec<Target> = targets.map(|(target, weight)| Target { weight, ..*target }).collect();
        // Of a single chunk the logits are still there.
        let logits = match Chunks::new(&targets, buffers.head.rows).count() {
            1 => Logits::Computed,
            _ => Logits::ToCompute,
        };
        let tokens = needed.count(stream);
        let task = HeadTask { targets: &targets, tokens, objective: 1.0.into(), logits };
        self.on_pool(|| {
            self.head_backward(adapter.adapter, task, buffers, gradients);
            self.blocks_backward(adapter, (stream, needed.rows()), buffers, gradients);
        });
    }

    /// Runs the blocks and leaves their output for all rows in `buffers`, for [`Model::row_logits`] and [`Model::row_losses`].
    ///
    /// # Panics
    /// As [`Model::loss`].
    pub fn forward(&self, adapter: ActiveAdapter<'_>, stream: Stream<'_>, buffers: &mut Buffers) {
        self.on_pool(|| self.forward_to(adapter, stream, None, buffers));
    }

    /// As [`Model::forward`]; if only some rows are `needed` of the output, it has no others.
    fn forward_to(
        &self,
        adapter: ActiveAdapter<'_>,
        stream: Stream<'_>,
        needed: Option<&[u32]>,
        buffers: &mut Buffers,
    ) {
        let Stream { ids, positions, below, .. } = stream;
        let tokens = Tokens { ids, positions, below, needed };
        let context = Context::Stream(stream.segments);
        self.run_blocks(adapter, &[], tokens, (self.blocks.len(), context), buffers);
    }

    /// What the lowest `blocks` blocks of the base, without an adapter, make of a stream, `[tokens, hidden]`; see [`Stream::below`].
    ///
    /// # Panics
    /// As [`Model::loss`], and where there are not so many blocks.
    pub fn outputs_below(&self, blocks: usize, stream: Stream<'_>, buffers: &mut Buffers) -> Vec<f32> {
        let Stream { ids, positions, below, .. } = stream;
        let tokens = Tokens { ids, positions, below, needed: None };
        let context = Context::Stream(stream.segments);
        self.on_pool(|| self.run_blocks(ActiveAdapter::default(), &[], tokens, (blocks, context), buffers));
        buffers.hidden.to_vec(stream.ids.len() * self.config.hidden_size)
    }

    /// Writes what the first block reads into `buffers.hidden`.
    fn embed(
        &self,
        adapter: ActiveAdapter<'_>,
        Tokens { ids, positions, .. }: Tokens<'_>,
        context: &Context<'_>,
        buffers: &mut Buffers,
    ) {
        let rows = ids.len();
        embedding::forward(self.embedding_with(adapter.adapter), ids, &mut buffers.hidden);
        if let Some(factors) = adapter.adapter.and_then(|adapter| adapter.embedding.as_ref()) {
            let (width, u) = (self.config.hidden_size, &mut buffers.scratch.d_u);
            low_rank_rows(factors, ids, u);
            let right = Right::View(View::rows(&factors.b_t, width));
            let term = Term { left: View::rows(u, factors.rank), right, k: factors.rank };
            let product = Product::new(rows, width, term, &mut buffers.hidden);
            matmul::run(&mut [Product { base: Base::Output, ..product }]);
        }
        if let Some(tokens) = adapter.adapter.and_then(|adapter| adapter.tokens.embedding.as_ref()) {
            tokens.replace_embedded(ids, &mut buffers.scratch.normed, &mut buffers.hidden);
        }
        if self.config.embedding_scale != 1.0 {
            let values = rows * self.config.hidden_size;
            elementwise::scale(&mut buffers.hidden, values, self.config.embedding_scale);
        }
        if let Some(EmbeddingNoise { alpha, seed }) = adapter.noise {
            let width = self.config.hidden_size;
            let bound = |length: usize| alpha / ((length * width) as f32).sqrt();
            let bounds =
                context.texts().into_iter().flat_map(|(rows, length)| rows.map(move |_| bound(length)));
            noise::add(&mut buffers.hidden, width, &bounds.collect::<Vec<f32>>(), seed);
        }
        if let Some(weight) = &self.positions {
            embedding::add(weight, positions, &mut buffers.scratch.normed, &mut buffers.hidden);
        }
    }

    /// Computes the lowest `blocks` blocks over tokens; either all rows have one adapter, or some have their own.
    fn run_blocks(
        &self,
        adapter: ActiveAdapter<'_>,
        of_rows: &[(Range<usize>, &Adapter)],
        tokens: Tokens<'_>,
        (blocks, mut context): (usize, Context<'_>),
        buffers: &mut Buffers,
    ) {
        let Tokens { ids, positions, below, needed } = tokens;
        let rows = ids.len();
        assert!(rows <= buffers.tokens, "{rows} tokens in buffers for {}", buffers.tokens);
        let prepared = adapter.adapter.is_none_or(Adapter::is_prepared);
        assert!(prepared, "Model::prepare comes before computing with magnitudes, whole weights or new rows");
        match below {
            0 => self.embed(adapter, tokens, &context, buffers),
            _ => assert!(adapter.noise.is_none(), "noise on embeddings would be lost"),
        }
        let ropes = self.config.ropes().into_iter().zip(&self.frequencies);
        for ((rope, fixed), angles) in ropes.zip(&mut buffers.scratch.angles) {
            if let Some(frequencies) = fixed {
                angles.set(positions, frequencies);
                continue;
            }
            for (rows, length) in context.texts() {
                let frequencies = rope.frequencies(self.config.head_dim, length);
                angles.set_from(rows.start, &positions[rows], &frequencies);
            }
        }
        if let Some(growth) = self.config.query_growth {
            let factors: Vec<f32> = positions.iter().map(|position| growth.factor(*position)).collect();
            buffers.scratch.query_factors.write(0, &factors);
        }
        for (i, block) in self.blocks[..blocks].iter().enumerate().skip(below) {
            if let Context::Cached { layer, .. } = &mut context {
                *layer = i;
            }
            let adapter = adapter.of_block(i);
            let of_rows = of_rows.iter();
            let of_rows: Vec<RowsAdapter<'_>> =
                of_rows.map(|(rows, of)| RowsAdapter { rows: rows.clone(), groups: &of.layers[i] }).collect();
            let saved = buffers.activations.for_forward(i);
            let (hidden, scratch) = (&mut buffers.hidden, &mut buffers.scratch);
            let needed = needed.filter(|_| i + 1 == self.blocks.len());
            let of_rows = &of_rows;
            let mut pass = ForwardPass { rows, adapter, of_rows, hidden, kept: None, needed, saved, scratch };
            block.forward(&mut pass, &mut context, Extent::Whole);
            buffers.activations.keep(i, rows);
        }
    }

    /// Logits of the given rows of `hidden`, into `head.logits`.
    fn logits(&self, adapter: Option<&Adapter>, rows: &[u32], hidden: &Tensor, head: &mut HeadBuffers) {
        let width = self.config.hidden_size;
        elementwise::gather_rows(hidden, rows, width, &mut head.hidden);
        self.norm_with(adapter).forward(&head.hidden, rows.len(), &mut head.normed, &mut head.stats);
        let right = Right::WeightTransposed(self.head_with(adapter));
        let left = View::rows(&head.normed, width);
        let factors = adapter.and_then(|adapter| adapter.head.as_ref());
        if let Some(LoraGroup { a, rank, parts }) = factors {
            let term = Term { left, right: Right::View(View::rows(a, width).t()), k: width };
            let low_rank = Product::new(rows.len(), *rank, term, &mut head.u);
            matmul::run(&mut [Product { scale: parts[0].scale, ..low_rank }]);
        }
        let vocab = self.config.outputs();
        let mut product = Product::new(rows.len(), vocab, Term { left, right, k: width }, &mut head.logits);
        product.bias = self.unknown.as_ref();
        if let Some(LoraGroup { rank, parts, .. }) = factors {
            let right = Right::View(View::rows(&parts[0].b_t, vocab));
            product.terms.push(Term { left: View::rows(&head.u, *rank), right, k: *rank });
        }
        matmul::run(&mut [product]);
        if let Some(tokens) = adapter.and_then(|adapter| adapter.tokens.head()) {
            tokens.replace_logits(head, rows.len(), vocab);
        }
        let values = rows.len() * self.config.outputs();
        if self.config.logit_scale != 1.0 {
            elementwise::scale(&mut head.logits, values, self.config.logit_scale);
        }
        if let Some(cap) = self.config.logit_softcap {
            elementwise::softcap(&mut head.logits, values, cap);
        }
    }

    /// From the gradient of the logits, in `head.logits`, to that of the product with the head.
    fn logits_backward(&self, rows: usize, head: &mut HeadBuffers) {
        let values = rows * self.config.outputs();
        if let Some(cap) = self.config.logit_softcap {
            elementwise::softcap_backward(&head.capped, values, cap, &mut head.logits);
        }
        if self.config.logit_scale != 1.0 {
            elementwise::scale(&mut head.logits, values, self.config.logit_scale);
        }
    }

    /// Loss, gradients of head and norm, and the gradient of `buffers.hidden` in `back.d_hidden`, a chunk of supervised
    /// rows at a time. Goes no further down than what is trained.
    fn head_backward(
        &self,
        adapter: Option<&Adapter>,
        HeadTask { targets, tokens: rows_of_stream, objective, logits }: HeadTask<'_>,
        buffers: &mut Buffers,
        gradients: &mut Gradients,
    ) -> Losses {
        let lowest = gradients.lowest();
        let d_head = match self.has_tied_head(adapter) {
            false => &mut gradients.head,
            true => &mut gradients.embedding,
        };
        let norm = self.norm_with(adapter);
        let (width, vocab) = (self.config.hidden_size, self.config.outputs());
        let back = buffers.backward.as_mut().expect("buffers made for training");
        back.d_hidden.clear(rows_of_stream * width);
        let mut losses = Losses::new(self.device, targets);
        for chunk in Chunks::new(targets, buffers.head.rows) {
            let (head, rows) = (&mut buffers.head, chunk.rows.len());
            if logits == Logits::ToCompute {
                self.logits(adapter, &chunk.rows, &buffers.hidden, head);
            }
            if self.config.logit_softcap.is_some() {
                elementwise::copy(&head.logits, rows * vocab, &mut head.capped);
            }
            let (logits, values) = (&mut head.logits, &mut losses.values);
            self.losses_and_gradient_of(logits, rows, &chunk, objective, values);
            self.logits_backward(rows, head);

            let tokens = adapter.and_then(|adapter| Some((adapter.tokens.ties, adapter.tokens.head()?)));
            if let Some((ties, tokens)) = tokens {
                let d_rows = gradients.tokens[usize::from(!ties)].as_mut().expect("rows have a gradient");
                tokens.logits_backward(head, rows, vocab, d_rows);
            }
            let d_logits = View::rows(&head.logits, vocab);
            if let Some(d_head) = d_head {
                let right = Right::View(View::rows(&head.normed, width));
                let term = Term { left: d_logits.t(), right, k: rows };
                matmul::run(&mut [Product {
                    base: Base::Output,
                    ..Product::new(vocab, width, term, d_head)
                }]);
            }
            let factors = adapter.and_then(|adapter| adapter.head.as_ref());
            if let (Some(LoraGroup { rank, parts, .. }), Some(slots)) = (factors, &mut gradients.head_factors)
            {
                let right = Right::View(View::rows(&parts[0].b_t, vocab).t());
                let product =
                    Product::new(rows, *rank, Term { left: d_logits, right, k: vocab }, &mut head.d_u);
                matmul::run(&mut [Product { scale: parts[0].scale, ..product }]);

                let (u_t, d_u_t) = (View::rows(&head.u, *rank).t(), View::rows(&head.d_u, *rank).t());
                let of_b = Term { left: u_t, right: Right::View(d_logits), k: rows };
                let of_b = Product::new(*rank, vocab, of_b, &mut slots.b_t[0]);
                matmul::run(&mut [Product { base: Base::Output, ..of_b }]);
                let of_a = Term { left: d_u_t, right: Right::View(View::rows(&head.normed, width)), k: rows };
                let of_a = Product::new(*rank, width, of_a, &mut slots.a);
                matmul::run(&mut [Product { base: Base::Output, ..of_a }]);
            }
            if lowest == Some(Place::Head) {
                continue;
            }
            let term = Term { left: d_logits, right: Right::Weight(self.head_with(adapter)), k: vocab };
            let mut product = Product::new(rows, width, term, &mut head.d_normed);
            if let Some(LoraGroup { a, rank, .. }) = factors {
                let right = Right::View(View::rows(a, width));
                product.terms.push(Term { left: View::rows(&head.d_u, *rank), right, k: *rank });
            }
            product.terms.extend(tokens.map(|(_, tokens)| tokens.input_term(&head.tokens)));
            matmul::run(&mut [product]);
            norm.weight_gradient(&head.d_normed, &head.hidden, rows, &head.stats, &mut gradients.norm);
            if lowest == Some(Place::Norm) {
                continue;
            }
            head.d_hidden.clear(rows * width);
            norm.input_gradient(&head.d_normed, &head.hidden, rows, &head.stats, &mut head.d_hidden);
            elementwise::scatter_add_rows(&head.d_hidden, &chunk.rows, width, &mut back.d_hidden);
        }
        losses
    }

    /// Goes back through the blocks to the lowest that is trained.
    fn blocks_backward(
        &self,
        adapter: ActiveAdapter<'_>,
        (stream, needed): (Stream<'_>, Option<&[u32]>),
        buffers: &mut Buffers,
        gradients: &mut Gradients,
    ) {
        let (lowest, last) = match gradients.lowest() {
            Some(Place::Embedding) => (0, None),
            Some(Place::Block(block, stage)) => (block, Some(stage)),
            Some(Place::Norm | Place::Head) | None => return,
        };
        assert!(stream.below <= lowest, "blocks that are trained are computed");
        let back = buffers.backward.as_mut().expect("buffers made for training");
        let rows = stream.ids.len();
        for i in (lowest..self.blocks.len()).rev() {
            let (block, adapter) = (&self.blocks[i], adapter.of_block(i));
            let needed = needed.filter(|_| i + 1 == self.blocks.len());
            let (scratch, activations) = (&mut buffers.scratch, &mut buffers.activations);
            let (recomputed, in_shared) = (activations.is_recomputed(i), activations.is_in_shared(i));
            let mut saved = activations.for_backward(i, rows);
            if recomputed && !in_shared {
                let (hidden, kept) = (&mut buffers.hidden, Some(StreamAt::Input));
                let mut pass =
                    ForwardPass { rows, adapter, of_rows: &[], hidden, kept, needed, saved, scratch };
                block.forward(&mut pass, &mut Context::Stream(stream.segments), Extent::Saved);
            }
            if recomputed {
                saved = activations.round(rows);
            }
            let last = last.filter(|_| i == lowest);
            let (segments, d_normed) = (stream.segments, &mut buffers.hidden);
            let (rows, needed) = (needed.map_or(rows, <[u32]>::len), needed.map(|needed| (needed, rows)));
            let mut pass = BackwardPass { rows, needed, adapter, segments, saved, scratch, back, d_normed };
            block.backward(&mut pass, &mut gradients.blocks[i], last);
            buffers.activations.release(i);
        }
        if let Some(d_positions) = &mut gradients.positions {
            embedding::backward(&back.d_hidden, stream.positions, self.config.hidden_size, d_positions);
        }
        let of_embedding = gradients.embedding.is_some()
            || gradients.embedding_factors.is_some()
            || gradients.tokens[0].is_some();
        if of_embedding && self.config.embedding_scale != 1.0 {
            let values = rows * self.config.hidden_size;
            elementwise::scale(&mut back.d_hidden, values, self.config.embedding_scale);
        }
        if let Some(d_embedding) = &mut gradients.embedding {
            embedding::backward(&back.d_hidden, stream.ids, self.config.hidden_size, d_embedding);
        }
        let tokens = adapter.adapter.and_then(|adapter| adapter.tokens.embedding.as_ref());
        if let (Some(tokens), Some(d_rows)) = (tokens, &mut gradients.tokens[0]) {
            let scratch = &mut buffers.scratch.normed;
            tokens.embedding_backward(stream.ids, &back.d_hidden, scratch, d_rows);
        }
        let factors = adapter.adapter.and_then(|adapter| adapter.embedding.as_ref());
        if let (Some(factors), Some([d_b_t, d_a_t])) = (factors, &mut gradients.embedding_factors) {
            let (width, rank, u) = (self.config.hidden_size, factors.rank, &mut buffers.scratch.d_u);
            let d_hidden = View::rows(&back.d_hidden, width);
            low_rank_rows(factors, stream.ids, u);
            let term = Term { left: View::rows(u, rank).t(), right: Right::View(d_hidden), k: rows };
            let of_b = Product::new(rank, width, term, d_b_t);
            matmul::run(&mut [Product { base: Base::Output, ..of_b }]);
            // The gradient of the low-rank rows takes their place.
            let right = Right::View(View::rows(&factors.b_t, width).t());
            let of_rows = Product::new(rows, rank, Term { left: d_hidden, right, k: width }, u);
            matmul::run(&mut [Product { scale: factors.scale, ..of_rows }]);
            embedding::backward(u, stream.ids, rank, d_a_t);
        }
    }

    /// Continues cached sequences: `inputs[i]` are the next tokens of the sequence of `caches[i]`. Gives the
    /// logits after the last token of each, `[inputs, vocab]`; an empty input is passed over and has none.
    ///
    /// # Panics
    /// When the tokens exceed the buffers or a cache, or lie outside the vocabulary.
    pub fn continue_cached(
        &self,
        adapter: Option<&Adapter>,
        inputs: &[&[u32]],
        caches: &mut [KvCache],
        buffers: &mut Buffers,
    ) -> Vec<f32> {
        self.on_pool(|| {
            let last = self.extend(adapter, &[], inputs, caches, buffers);
            self.row_logits(adapter, &last, buffers)
        })
    }

    /// As [`Model::continue_cached`] of one sequence, without logits: of a part of a text that goes on.
    pub(crate) fn extend_cached(
        &self,
        adapter: Option<&Adapter>,
        tokens: &[u32],
        cache: &mut KvCache,
        buffers: &mut Buffers,
    ) {
        self.on_pool(|| self.extend(adapter, &[], &[tokens], std::slice::from_mut(cache), buffers));
    }

    /// As [`Model::continue_cached`], where each sequence has its own adapter or none; all that there are can belong to rows
    /// ([`Adapter::is_of_rows`]).
    pub(crate) fn continue_mixed(
        &self,
        adapters: &[Option<&Adapter>],
        inputs: &[&[u32]],
        caches: &mut [KvCache],
        buffers: &mut Buffers,
    ) -> Vec<f32> {
        let mut of_rows: Vec<(Range<usize>, &Adapter)> = Vec::new();
        let mut row = 0;
        for (adapter, tokens) in adapters.iter().zip(inputs).filter(|(_, tokens)| !tokens.is_empty()) {
            let rows = row..row + tokens.len();
            row = rows.end;
            let Some(adapter) = *adapter else { continue };
            match of_rows.last_mut() {
                Some((before, same)) if std::ptr::eq(*same, adapter) && before.end == rows.start => {
                    before.end = rows.end;
                }
                _ => of_rows.push((rows, adapter)),
            }
        }
        self.on_pool(|| {
            let last = self.extend(None, &of_rows, inputs, caches, buffers);
            self.row_logits(None, &last, buffers)
        })
    }

    /// Computes on a thread of the pool, from which the others are asked for help: from outside, each of the hundreds of
    /// parallel steps of a pass would wake a thread and wait for it. `compute` must not wait for another thread that needs the pool.
    pub(crate) fn on_pool<R: Send>(&self, compute: impl FnOnce() -> R + Send) -> R {
        match self.device {
            Device::Cpu => rayon::scope(|_| compute()),
            Device::Cuda(_) => compute(),
        }
    }

    /// Computes the blocks over the next tokens of cached sequences, either with one adapter or with those of some rows. Gives the
    /// row of the last token of each.
    fn extend(
        &self,
        adapter: Option<&Adapter>,
        of_rows: &[(Range<usize>, &Adapter)],
        inputs: &[&[u32]],
        caches: &mut [KvCache],
        buffers: &mut Buffers,
    ) -> Vec<u32> {
        let mut runs = Vec::new();
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for (cache, tokens) in inputs.iter().enumerate() {
            let past = caches[cache].len();
            assert!(past + tokens.len() <= caches[cache].capacity(), "the cache is full");
            if tokens.is_empty() {
                continue;
            }
            runs.push(Run { cache, first_row: ids.len(), rows: tokens.len() });
            ids.extend_from_slice(tokens);
            positions.extend((past..past + tokens.len()).map(|p| p as u32));
        }
        let context = Context::Cached { runs: &runs, caches, layer: 0 };
        let tokens = Tokens { ids: &ids, positions: &positions, below: 0, needed: None };
        self.run_blocks(adapter.into(), of_rows, tokens, (self.blocks.len(), context), buffers);
        for run in &runs {
            caches[run.cache].advance(run.rows);
        }
        runs.iter().map(|r| (r.first_row + r.rows - 1) as u32).collect()
    }

    /// Logits of every token of a stream, `[tokens, vocab]`: for tests and for looking at a model, since the
    /// loss never needs them all at once.
    pub fn all_logits(
        &self,
        adapter: Option<&Adapter>,
        stream: Stream<'_>,
        buffers: &mut Buffers,
    ) -> Vec<f32> {
        self.forward(adapter.into(), stream, buffers);
        let rows: Vec<u32> = (0..stream.ids.len() as u32).collect();
        self.row_logits(adapter, &rows, buffers)
    }

    /// Logits of `rows` of the stream that [`Model::forward`] last computed in `buffers`, with the same adapter, `[rows, vocab]`.
    pub fn row_logits(&self, adapter: Option<&Adapter>, rows: &[u32], buffers: &mut Buffers) -> Vec<f32> {
        let mut logits = Vec::with_capacity(rows.len() * self.config.outputs());
        for rows in rows.chunks(buffers.head.rows) {
            self.logits(adapter, rows, &buffers.hidden, &mut buffers.head);
            logits.extend(buffers.head.logits.to_vec(rows.len() * self.config.outputs()));
        }
        logits
    }
}

impl Model {
    /// The first `rows` of the stream that [`Model::forward`] last computed in `buffers`, after the last norm, `[rows, hidden]`.
    pub(crate) fn normed_rows(
        &self,
        adapter: Option<&Adapter>,
        rows: usize,
        buffers: &mut Buffers,
    ) -> Vec<f32> {
        let (width, head) = (self.config.hidden_size, &mut buffers.head);
        let all: Vec<u32> = (0..rows as u32).collect();
        let mut normed = Vec::with_capacity(rows * width);
        for rows in all.chunks(head.rows) {
            elementwise::gather_rows(&buffers.hidden, rows, width, &mut head.hidden);
            self.norm_with(adapter).forward(&head.hidden, rows.len(), &mut head.normed, &mut head.stats);
            normed.extend(head.normed.to_vec(rows.len() * width));
        }
        normed
    }
}

/// The rows of `ids` of the embedding's `A`, scaled, `[ids, rank]`.
fn low_rank_rows(factors: &EmbeddingFactors, ids: &[u32], u: &mut Tensor) {
    embedding::forward(&factors.a_t, ids, u);
    elementwise::scale(u, ids.len() * factors.rank, factors.scale);
}

/// Tokens that are computed at once.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    ids: &'a [u32],
    positions: &'a [u32],
    /// See [`Stream::below`].
    below: usize,
    /// The rows that are needed of the last block, if not all are.
    needed: Option<&'a [u32]>,
}

/// The rows of a stream that predict something. After its attention the last block computes these alone.
struct Needed(Option<(Vec<u32>, Vec<Target>)>);

impl Needed {
    /// All, where that is what there is, or where none can be left out: by the block, with dropout, whose masks are by row, and on a
    /// GPU, where the launches that leave rows out cost more than they save unless few blocks are computed.
    fn of(model: &Model, adapter: ActiveAdapter<'_>, stream: Stream<'_>) -> Self {
        let by_block = model.blocks.last().is_some_and(Block::can_leave_rows);
        if !by_block || adapter.mask.is_some() || model.device != Device::Cpu {
            return Needed(None);
        }
        assert!(stream.targets.is_sorted_by_key(|target| target.row), "targets are sorted by row");
        let (mut rows, mut targets) = (Vec::new(), Vec::with_capacity(stream.targets.len()));
        for target in stream.targets {
            if rows.last() != Some(&target.row) {
                rows.push(target.row);
            }
            targets.push(Target { row: rows.len() as u32 - 1, ..*target });
        }
        // Few rows have a product of their own, which adds in another order: what is computed would depend on how rows are cut.
        let leaves_some = (matmul::FEW_ROWS + 1..stream.ids.len()).contains(&rows.len());
        Needed(leaves_some.then_some((rows, targets)))
    }

    /// The rows of the stream, in their order; `None` for all.
    fn rows(&self) -> Option<&[u32]> {
        self.0.as_ref().map(|(rows, _)| &rows[..])
    }

    fn count(&self, stream: Stream<'_>) -> usize {
        self.rows().map_or(stream.ids.len(), <[u32]>::len)
    }

    /// The targets by their places among them.
    fn targets<'a>(&'a self, stream: Stream<'a>) -> &'a [Target] {
        self.0.as_ref().map_or(stream.targets, |(_, targets)| targets)
    }
}

/// What the head goes back from.
struct HeadTask<'a> {
    /// What is predicted, sorted by row.
    targets: &'a [Target],
    /// Rows of the last block's output.
    tokens: usize,
    objective: Objective,
    logits: Logits,
}

/// Whether the logits of a chunk are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logits {
    ToCompute,
    Computed,
}

/// Targets of a few rows, with rows counted from the chunk's first.
struct Chunk {
    /// Place of the first target in the whole list.
    first: usize,
    /// The rows of the stream, each once.
    rows: Vec<u32>,
    targets: Vec<Target>,
}

/// Cuts targets into chunks of at most `rows` different rows.
struct Chunks<'a> {
    targets: &'a [Target],
    rows: usize,
    next: usize,
}

impl<'a> Chunks<'a> {
    /// Chunks of even size: a short last one would be computed by the product for few rows, whose sums are rounded
    /// differently, and the result would depend on the size of the buffers.
    fn new(targets: &'a [Target], rows: usize) -> Self {
        assert!(targets.is_sorted_by_key(|t| t.row), "targets are sorted by row");
        let all = targets.chunk_by(|a, b| a.row == b.row).count();
        let chunks = all.div_ceil(rows).max(1);
        Chunks { targets, rows: all.div_ceil(chunks), next: 0 }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let mut chunk = Chunk { first: self.next, rows: Vec::new(), targets: Vec::new() };
        while let Some(target) = self.targets.get(self.next) {
            if chunk.rows.last() != Some(&target.row) {
                if chunk.rows.len() == self.rows {
                    break;
                }
                chunk.rows.push(target.row);
            }
            chunk.targets.push(Target { row: chunk.rows.len() as u32 - 1, ..*target });
            self.next += 1;
        }
        (!chunk.targets.is_empty()).then_some(chunk)
    }
}

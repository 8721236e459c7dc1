//! Sequences that are continued side by side and come and go between rounds, each over the base with its own adapter or none.
//!
//! A round computes pieces of prompts, and one token of every sequence whose prompt is computed: one product with the base for the
//! rows of all adapters, and each adapter's factors on the rows of its own sequences. Adapters that change more than the blocks'
//! projections (norms, heads, rows of tokens, magnitudes) have rounds of their own.

use std::borrow::Borrow;

use lorafit_kernels::Device;
use lorafit_kernels::ops::matmul;

use crate::adapter::Adapter;
use crate::buffers::{BufferShape, Buffers};
use crate::kv_cache::KvCache;
use crate::model::Model;

/// What an [`Engine`] may take at once, and what it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Tokens of a prompt that are computed at once, at most.
    pub prefill_tokens: usize,
    /// Pieces of prompts that are computed in a round, at most. With few, sequences that are being continued wait less for the
    /// prompts of others.
    pub pieces: usize,
    /// Bytes of keys and values that are kept of ended sequences, for prompts that begin alike. With none, nothing is taken from
    /// another sequence but what a prompt just like it gave: then what follows a prompt has the same bits whatever was before.
    pub kept_bytes: u64,
}

/// A sequence of an [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// The sequence of which it is asked what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which it is.
    pub id: SequenceId,
    /// Tokens of its prompt that were taken from another sequence.
    pub reused: usize,
}

/// What follows in a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This token.
    Token(u32),
    /// Nothing: it is over.
    End,
}

/// A sequence that is being continued.
#[derive(Debug)]
struct Sequence<A> {
    id: SequenceId,
    /// Stands for its adapter at its strength; 0 for none.
    key: u64,
    adapter: Option<A>,
    /// Tokens of the prompt.
    prompt: usize,
    /// The prompt and what followed. All but the last tokens of it are in the cache.
    text: Vec<u32>,
    /// Tokens that the cache is to have room for.
    room: usize,
    /// Tokens that were taken from another sequence.
    reused: usize,
    /// Whether its first piece was begun: a sequence with the same beginning is looked for once.
    began: bool,
}

/// Keys and values of a sequence that is over.
#[derive(Debug)]
struct Kept {
    key: u64,
    text: Vec<u32>,
    cache: KvCache,
}

/// What a prompt gave.
#[derive(Debug)]
struct Computed {
    id: SequenceId,
    /// Tokens of the prompt.
    tokens: usize,
    logits: Vec<f32>,
}

/// Continues sequences over one model. `A` is how adapters are held: by reference, or shared.
#[derive(Debug)]
pub struct Engine<'m, A> {
    model: &'m Model,
    limits: EngineLimits,
    /// In the order of their keys, so that the rows of an adapter lie together.
    sequences: Vec<Sequence<A>>,
    /// Of each sequence.
    caches: Vec<KvCache>,
    /// In the order in which they ended.
    kept: Vec<Kept>,
    /// The prompt that was computed last.
    computed: Option<Computed>,
    /// What buffers have to be made for.
    shape: BufferShape,
    buffers: Option<(BufferShape, Buffers)>,
    next_id: u64,
}

impl<'m, A: Borrow<Adapter>> Engine<'m, A> {
    /// An engine without a sequence.
    pub fn new(model: &'m Model, limits: EngineLimits) -> Self {
        Engine {
            model,
            limits,
            sequences: Vec::new(),
            caches: Vec::new(),
            kept: Vec::new(),
            computed: None,
            shape: BufferShape::of(model.config(), None, 0),
            buffers: None,
            next_id: 0,
        }
    }

    /// Begins a sequence with `prompt`, which the next rounds compute. `adapter` comes with a number above 0 that stands for it at its
    /// strength. `room` is how many tokens will follow, as far as that is known.
    ///
    /// # Panics
    /// On an empty prompt, and on an adapter that [`Model::prepare`] has not seen and should have.
    pub fn begin(&mut self, prompt: Vec<u32>, adapter: Option<(u64, A)>, room: usize) -> SequenceId {
        assert!(!prompt.is_empty(), "a prompt has at least one token");
        let (key, adapter) = adapter.map_or((0, None), |(key, adapter)| (key, Some(adapter)));
        assert!(adapter.is_none() || key > 0, "0 stands for no adapter");
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let rows = (self.sequences.len() + 1).min(self.most_rows());
        let tokens = prompt.len().min(self.most_of_prompt()).max(rows);
        let needed = BufferShape::of(self.model.config(), adapter.as_ref().map(A::borrow), tokens);
        self.shape.widen(&needed);
        let (tokens, room) = (prompt.len(), prompt.len() + room);
        let place = self.sequences.partition_point(|sequence| sequence.key <= key);
        let sequence =
            Sequence { id, key, adapter, prompt: tokens, text: prompt, room, reused: 0, began: false };
        self.sequences.insert(place, sequence);
        // Its memory is taken when it is computed.
        self.caches.insert(place, KvCache::new(self.model.config(), self.model.device(), 0));
        id
    }

    /// Ends a sequence.
    pub fn end(&mut self, id: SequenceId) {
        let Some(at) = self.sequences.iter().position(|sequence| sequence.id == id) else { return };
        let (sequence, mut cache) = (self.sequences.remove(at), self.caches.remove(at));
        self.computed.take_if(|computed| computed.id == id);
        if self.limits.kept_bytes == 0 || cache.is_empty() {
            return;
        }
        let (key, mut text) = (sequence.key, sequence.text);
        text.truncate(cache.len());
        // A kept text with which this one begins is contained in it.
        self.kept.retain(|kept| kept.key != key || !text.starts_with(&kept.text));
        // Gives back the room for tokens that did not come: it would take the place of other kept texts.
        if cache.capacity() > cache.len() {
            cache = cache.beginning(cache.len(), self.model.config(), self.model.device(), 0);
        }
        self.kept.push(Kept { key, text, cache });
        self.evict(self.limits.kept_bytes);
    }

    /// Forgets ended sequences, the longest ended first, until those that are kept take no more than `bytes`.
    pub fn evict(&mut self, bytes: u64) {
        let mut held: u64 = self.kept.iter().map(|kept| bytes_of(self.model, &kept.cache)).sum();
        while held > bytes {
            held -= bytes_of(self.model, &self.kept.remove(0).cache);
        }
    }

    /// Forgets the ended sequences of the adapter that `key` stands for, which nobody will ask for again.
    pub fn forget(&mut self, key: u64) {
        self.kept.retain(|kept| kept.key != key);
    }

    /// Bytes of the keys and values that are held: of sequences, and of ended ones that are kept.
    pub fn cache_bytes(&self) -> (u64, u64) {
        let of = |cache: &KvCache| bytes_of(self.model, cache);
        (self.caches.iter().map(of).sum(), self.kept.iter().map(|kept| of(&kept.cache)).sum())
    }

    /// Computes a round. `choose(asked, logits)` says what follows in a sequence; it may change the logits. Tells whether there was
    /// something to compute.
    pub fn step(&mut self, choose: &mut dyn FnMut(Asked, &mut [f32]) -> Next) -> bool {
        self.follow_rotations();
        let waiting = |(at, sequence): (usize, &Sequence<A>)| {
            (sequence.text.len() - self.caches[at].len() > 1 || !sequence.began).then_some(sequence.id)
        };
        let mut prompts: Vec<SequenceId> = self.sequences.iter().enumerate().filter_map(waiting).collect();
        // Those that came first are computed first.
        prompts.sort_unstable();
        let ready: Vec<SequenceId> =
            self.sequences.iter().map(|sequence| sequence.id).filter(|id| !prompts.contains(id)).collect();
        for id in prompts.iter().take(self.limits.pieces) {
            self.compute_piece(*id, choose);
        }
        self.continue_ready(&ready, choose);
        !prompts.is_empty() || !ready.is_empty()
    }

    /// Rows that are computed at once, at most.
    fn most_rows(&self) -> usize {
        match self.model.device() {
            // Of so many each has the same bits whatever is beside it.
            Device::Cpu => matmul::FEW_ROWS,
            Device::Cuda(_) => usize::MAX,
        }
    }

    /// Tokens of a prompt that are computed at once, at most.
    fn most_of_prompt(&self) -> usize {
        if self.rotates_by_length() { usize::MAX } else { self.limits.prefill_tokens }
    }

    /// Whether every length of a text has rotations of its own: what was computed of a part of it is not what it is in the whole.
    fn rotates_by_length(&self) -> bool {
        let rope = &self.model.config().rope;
        rope.depends_on_length() && rope.switches_at().is_none()
    }

    /// A text that has come to where the model rotates otherwise is computed again from its beginning.
    fn follow_rotations(&mut self) {
        let Some(switch) = self.model.config().rope.switches_at() else { return };
        for (sequence, cache) in self.sequences.iter().zip(&mut self.caches) {
            if sequence.text.len() > switch && !cache.is_long() {
                cache.restart(switch);
            }
        }
    }

    fn asked(&self, at: usize) -> Asked {
        let Sequence { id, reused, .. } = self.sequences[at];
        Asked { id, reused }
    }

    fn place(&self, id: SequenceId) -> usize {
        self.sequences.iter().position(|sequence| sequence.id == id).expect("a sequence that is continued")
    }

    /// Computes the next piece of a prompt; with the last, what follows is chosen.
    fn compute_piece(&mut self, id: SequenceId, choose: &mut dyn FnMut(Asked, &mut [f32]) -> Next) {
        let at = self.place(id);
        if !self.sequences[at].began {
            self.sequences[at].began = true;
            if let Some(mut logits) = self.take_from_another(at) {
                return self.follow(id, choose(self.asked(at), &mut logits));
            }
        }
        self.make_buffers();
        let (config, device, most) = (self.model.config(), self.model.device(), self.most_of_prompt());
        let (sequence, cache) = (&self.sequences[at], &mut self.caches[at]);
        cache.grow(config, device, sequence.text.len().max(sequence.room));
        let past = cache.len();
        // A text that is rotated anew is computed in pieces of its prompt's length, which buffers are made for.
        let end = sequence.text.len().min(past + most.min(sequence.prompt));
        let (piece, whole) = (&sequence.text[past..end], end == sequence.text.len());
        let (_, buffers) = self.buffers.as_mut().expect("buffers were made");
        let adapter = sequence.adapter.as_ref().map(A::borrow);
        if !whole {
            return self.model.extend_cached(adapter, piece, cache, buffers);
        }
        let mut logits = self.model.continue_cached(adapter, &[piece], std::slice::from_mut(cache), buffers);
        self.computed = Some(Computed { id, tokens: end, logits: logits.clone() });
        let next = choose(self.asked(at), &mut logits);
        self.follow(id, next);
    }

    /// Takes what another sequence with the same adapter has computed of the same text; and the logits, if that is all of it.
    fn take_from_another(&mut self, at: usize) -> Option<Vec<f32>> {
        let (config, device) = (self.model.config(), self.model.device());
        let Sequence { key, room, text, .. } = &self.sequences[at];
        let (key, room, text) = (*key, *room, text.clone());
        let long = self.caches[at].is_long();
        if let Some(Computed { id, tokens, logits }) = &self.computed {
            let from = self.place(*id);
            let (other, cache) = (&self.sequences[from], &self.caches[from]);
            let holds = cache.len() >= *tokens && cache.is_long() == long;
            if other.key == key && *tokens == text.len() && other.text[..*tokens] == text && holds {
                let (cache, logits) = (cache.beginning(*tokens, config, device, room), logits.clone());
                (self.caches[at], self.sequences[at].reused) = (cache, text.len());
                return Some(logits);
            }
        }
        if self.limits.kept_bytes == 0 || self.rotates_by_length() {
            return None;
        }
        // The last token is computed in any case: its logits are asked for.
        let alike = |other: &[u32], cache: &KvCache| {
            let most = cache.len().min(text.len() - 1);
            let same = text[..most].iter().zip(other).take_while(|(a, b)| a == b).count();
            if cache.is_long() == long { same } else { 0 }
        };
        let of_running = self.sequences.iter().zip(&self.caches).enumerate();
        let of_running = of_running.filter(|(_, (other, _))| other.key == key);
        let of_running =
            of_running.map(|(place, (other, cache))| (alike(&other.text, cache), Other::Running(place)));
        let of_kept = self.kept.iter().enumerate().filter(|(_, kept)| kept.key == key);
        let of_kept = of_kept.map(|(place, kept)| (alike(&kept.text, &kept.cache), Other::Kept(place)));
        let (same, other) =
            of_running.chain(of_kept).max_by_key(|(same, _)| *same).filter(|(same, _)| *same > 0)?;
        let cache = match other {
            Other::Kept(place) if self.kept[place].text.len() == same => self.kept.remove(place).cache,
            Other::Kept(place) => self.kept[place].cache.beginning(same, config, device, room),
            Other::Running(place) => self.caches[place].beginning(same, config, device, room),
        };
        (self.caches[at], self.sequences[at].reused) = (cache, same);
        None
    }

    /// Computes the next token of sequences whose texts are computed but for the last one.
    fn continue_ready(&mut self, ready: &[SequenceId], choose: &mut dyn FnMut(Asked, &mut [f32]) -> Next) {
        let mut places: Vec<usize> = ready.iter().map(|id| self.place(*id)).collect();
        places.sort_unstable();
        let of_rows = |at: &usize| {
            self.sequences[*at].adapter.as_ref().is_none_or(|adapter| adapter.borrow().is_of_rows())
        };
        let (together, apart): (Vec<usize>, Vec<usize>) = places.into_iter().partition(of_rows);
        let rows = self.most_rows();
        let mut groups: Vec<(bool, Vec<usize>)> =
            together.chunks(rows).map(|group| (true, group.to_vec())).collect();
        for of_adapter in apart.chunk_by(|a, b| self.sequences[*a].key == self.sequences[*b].key) {
            groups.extend(of_adapter.chunks(rows).map(|group| (false, group.to_vec())));
        }
        let mut followed = Vec::with_capacity(ready.len());
        for (mixed, group) in groups {
            let mut logits = self.continue_group(&group, mixed);
            for (at, logits) in group.iter().zip(logits.chunks_exact_mut(self.model.config().vocab_size)) {
                let asked = self.asked(*at);
                followed.push((asked.id, choose(asked, logits)));
            }
        }
        followed.into_iter().for_each(|(id, next)| self.follow(id, next));
    }

    /// The logits of the next token of each sequence of a group, computed at once, `[group, vocab]`.
    fn continue_group(&mut self, group: &[usize], mixed: bool) -> Vec<f32> {
        let (config, device) = (self.model.config(), self.model.device());
        self.make_buffers();
        for &at in group {
            let (sequence, cache) = (&self.sequences[at], &mut self.caches[at]);
            cache.grow(config, device, sequence.text.len());
        }
        let mut inputs: Vec<&[u32]> = vec![&[]; self.sequences.len()];
        let mut adapters: Vec<Option<&Adapter>> = vec![None; self.sequences.len()];
        for &at in group {
            let sequence = &self.sequences[at];
            inputs[at] = &sequence.text[sequence.text.len() - 1..];
            adapters[at] = sequence.adapter.as_ref().map(A::borrow);
        }
        let (_, buffers) = self.buffers.as_mut().expect("buffers were made");
        match mixed {
            true => self.model.continue_mixed(&adapters, &inputs, &mut self.caches, buffers),
            false => self.model.continue_cached(adapters[group[0]], &inputs, &mut self.caches, buffers),
        }
    }

    fn follow(&mut self, id: SequenceId, next: Next) {
        match next {
            Next::Token(token) => {
                let at = self.place(id);
                self.sequences[at].text.push(token);
            }
            Next::End => self.end(id),
        }
    }

    /// Makes buffers where there are none that fit.
    fn make_buffers(&mut self) {
        if self.buffers.as_ref().is_none_or(|(made_for, _)| *made_for != self.shape) {
            // Not both at once.
            self.buffers = None;
            let buffers = Buffers::new(self.model.config(), &self.shape, self.model.device());
            self.buffers = Some((self.shape.clone(), buffers));
        }
    }
}

/// A sequence that another takes from.
#[derive(Clone, Copy)]
enum Other {
    Running(usize),
    Kept(usize),
}

/// Bytes that a cache of this model takes.
fn bytes_of(model: &Model, cache: &KvCache) -> u64 {
    KvCache::bytes(model.config(), model.device().placement(), cache.capacity())
}

//! Weights as the kernels want them, packed once and shared by all encoders of a model.

use std::borrow::Borrow;

use memmap2::MmapMut;
use millstream_core::{Error, Result};

use super::super::kernels::layout::{self, Column, pack_panel};
use super::super::kernels::{Kernels, PANEL, PANEL_CONSTANTS};
use super::super::spec::{EmbeddingWeights, EncoderSpec, LayerWeights, NormWeights, Precision, Projection};
use super::fits;

/// The panels of one projection.
#[derive(Debug, Clone)]
pub(super) struct Panels {
    /// Numbers that it sums over.
    pub(super) inputs: usize,
    /// How many panels there are.
    pub(super) count: usize,
    /// Lanes of a panel.
    lanes: usize,
    /// The first lane in the memory of the weights.
    start: usize,
    constants: Vec<f32>,
}

/// A block of the encoder.
#[derive(Debug)]
pub(super) struct PackedLayer {
    /// For each head the panels of its queries, keys and values, in that order; queries are divided by √d.
    pub(super) heads: Panels,
    pub(super) attention_output: Panels,
    pub(super) attention_norm: NormWeights,
    pub(super) expand: Panels,
    pub(super) contract: Panels,
    pub(super) output_norm: NormWeights,
}

/// An encoder's weights, packed for this processor.
#[derive(Debug)]
pub struct PackedEncoder {
    pub(super) spec: EncoderSpec,
    pub(super) kernels: Kernels,
    /// For what is never rounded: attention.
    pub(super) exact: Kernels,
    /// As they came: their rows are looked up, not multiplied.
    pub(super) embeddings: EmbeddingWeights,
    pub(super) layers: Vec<PackedLayer>,
    memory: Memory,
}

impl PackedEncoder {
    /// Packs weights for the fastest instructions that this processor has for `precision`.
    ///
    /// Each of the `layers` is packed and dropped before the next is asked for: beside the packed panels and the tables
    /// of `embeddings`, which are kept as they are, no more than one layer is in memory.
    ///
    /// # Errors
    /// What `layers` fails with; a shape does not fit `spec`, a weight is not finite, or there is no memory.
    pub fn new<L: Borrow<LayerWeights>>(
        spec: EncoderSpec,
        embeddings: EmbeddingWeights,
        layers: impl IntoIterator<Item = Result<L>>,
        precision: Precision,
    ) -> Result<Self> {
        Self::with_kernels(spec, embeddings, layers, Kernels::fastest(precision))
    }

    /// As [`PackedEncoder::new`], with the kernels to use.
    ///
    /// # Errors
    /// As [`PackedEncoder::new`].
    pub fn with_kernels<L: Borrow<LayerWeights>>(
        spec: EncoderSpec,
        embeddings: EmbeddingWeights,
        layers: impl IntoIterator<Item = Result<L>>,
        kernels: Kernels,
    ) -> Result<Self> {
        fits::spec(&spec)?;
        fits::embeddings(&spec, &embeddings)?;
        let mut packer = Packer::new(&spec, kernels.precision())?;
        let mut packed = Vec::new();
        for layer in layers {
            let layer = layer?;
            fits::layer(&spec, packed.len(), layer.borrow())?;
            packed.push(packer.layer(&spec, layer.borrow()));
        }
        fits::layer_count(&spec, packed.len())?;
        let exact = kernels.single_precision();
        Ok(Self { kernels, exact, embeddings, layers: packed, memory: packer.memory, spec })
    }

    /// The shape.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// The kernels that are used.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Multiplications in the large products for each token: one for each weight of the blocks.
    pub fn multiplications_per_token(&self) -> usize {
        let (hidden, wide) = (self.spec.hidden, self.spec.intermediate);
        self.spec.layers * (4 * hidden * hidden + 2 * hidden * wide)
    }

    /// The lanes and the constants of a panel.
    pub(super) fn panel<'a>(&'a self, panels: &'a Panels, index: usize) -> (&'a [u32], &'a [f32]) {
        let lanes = &self.memory.lanes()[panels.start + index * panels.lanes..][..panels.lanes];
        (lanes, &panels.constants[index * PANEL_CONSTANTS..][..PANEL_CONSTANTS])
    }
}

/// The width of a head in the kernels: whole panels.
pub(super) fn head_width(spec: &EncoderSpec) -> usize {
    (spec.hidden / spec.heads).next_multiple_of(PANEL)
}

struct Packer {
    precision: Precision,
    memory: Memory,
    next: usize,
}

impl Packer {
    fn new(spec: &EncoderSpec, precision: Precision) -> Result<Self> {
        let panels = |inputs, outputs: usize| layout::panel_lanes(precision, inputs) * outputs.div_ceil(PANEL);
        let (hidden, all_heads) = (spec.hidden, spec.heads * head_width(spec));
        let lanes = panels(hidden, 3 * all_heads)
            + panels(all_heads, hidden)
            + panels(hidden, spec.intermediate)
            + panels(spec.intermediate, hidden);
        Ok(Self { precision, memory: Memory::new(spec.layers * lanes)?, next: 0 })
    }

    /// In the order in which they are read.
    fn layer(&mut self, spec: &EncoderSpec, layer: &LayerWeights) -> PackedLayer {
        PackedLayer {
            heads: self.heads(spec, layer),
            attention_output: self.attention_output(spec, &layer.attention_output),
            attention_norm: layer.attention_norm.clone(),
            expand: self.projection(&layer.expand),
            contract: self.projection(&layer.contract),
            output_norm: layer.output_norm.clone(),
        }
    }

    fn heads(&mut self, spec: &EncoderSpec, layer: &LayerWeights) -> Panels {
        let depth = spec.hidden / spec.heads;
        let scaled = |projection: &Projection, factor: f32| Projection {
            weight: projection.weight.iter().map(|x| x * factor).collect(),
            bias: projection.bias.iter().map(|x| x * factor).collect(),
        };
        let query = scaled(&layer.query, 1.0 / (depth as f32).sqrt());
        let mut groups: Vec<Vec<Column<'_>>> = Vec::new();
        for head in 0..spec.heads {
            for projection in [&query, &layer.key, &layer.value] {
                let columns: Vec<_> = columns(projection, spec.hidden).skip(head * depth).take(depth).collect();
                groups.extend(columns.chunks(PANEL).map(<[_]>::to_vec));
            }
        }
        self.pack(spec.hidden, &groups)
    }

    /// Its inputs are the heads side by side, each in whole panels.
    fn attention_output(&mut self, spec: &EncoderSpec, projection: &Projection) -> Panels {
        let (depth, width) = (spec.hidden / spec.heads, head_width(spec));
        if depth == width {
            return self.projection(projection);
        }
        let mut weight = vec![0.0; spec.hidden * spec.heads * width];
        for (wide, row) in weight.chunks_mut(spec.heads * width).zip(projection.weight.chunks(spec.hidden)) {
            for (wide, head) in wide.chunks_mut(width).zip(row.chunks(depth)) {
                wide[..depth].copy_from_slice(head);
            }
        }
        self.projection(&Projection { weight, bias: projection.bias.clone() })
    }

    fn projection(&mut self, projection: &Projection) -> Panels {
        let inputs = projection.weight.len() / projection.bias.len();
        let columns: Vec<_> = columns(projection, inputs).collect();
        let groups: Vec<_> = columns.chunks(PANEL).map(<[_]>::to_vec).collect();
        self.pack(inputs, &groups)
    }

    fn pack(&mut self, inputs: usize, groups: &[Vec<Column<'_>>]) -> Panels {
        let lanes = layout::panel_lanes(self.precision, inputs);
        let start = self.next;
        self.next += lanes * groups.len();
        let mut constants = vec![0.0; groups.len() * PANEL_CONSTANTS];
        let memory = &mut self.memory.lanes_mut()[start..self.next];
        for ((columns, panel), constants) in
            groups.iter().zip(memory.chunks_exact_mut(lanes)).zip(constants.chunks_exact_mut(PANEL_CONSTANTS))
        {
            pack_panel(self.precision, columns, panel, constants);
        }
        Panels { inputs, count: groups.len(), lanes, start, constants }
    }
}

fn columns(projection: &Projection, inputs: usize) -> impl Iterator<Item = Column<'_>> {
    projection.weight.chunks_exact(inputs).zip(&projection.bias).map(|(weights, &bias)| Column { weights, bias })
}

/// Anonymous memory in large pages where the system has them: weights are read from end to end again and again, and
/// with small pages the translation of addresses would slow that down.
#[derive(Debug)]
struct Memory(MmapMut);

impl Memory {
    fn new(lanes: usize) -> Result<Self> {
        let bytes = lanes * size_of::<u32>();
        let map = MmapMut::map_anon(bytes.max(1))
            .map_err(|e| Error::environment(format!("no memory for {bytes} bytes of weights")).caused_by(e))?;
        // Where it is refused, small pages do the same more slowly.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self(map))
    }

    fn lanes(&self) -> &[u32] {
        // SAFETY: pages are aligned for u32, all bit patterns are values of it, and the length is rounded down.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / size_of::<u32>()) }
    }

    fn lanes_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() / size_of::<u32>()) }
    }
}

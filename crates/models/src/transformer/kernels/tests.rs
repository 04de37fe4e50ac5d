//! Every path of this processor against plain arithmetic.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::layout::{self, Column, Tiles};
use super::*;
use crate::transformer::reference;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

fn numbers(random: &mut StdRng, count: usize, low: f32, high: f32) -> Vec<f32> {
    (0..count).map(|_| random.random_range(low..high)).collect()
}

/// All paths of this processor, portable last.
fn all_kernels() -> Vec<Kernels> {
    let of = |precision| Path::choices(precision).into_iter().filter_map(move |path| Kernels::new(path, precision));
    PRECISIONS.into_iter().flat_map(of).collect()
}

/// Runs for other processors name the paths in `MILLSTREAM_EXPECT_PATHS`, separated by commas; else none is expected.
#[test]
fn the_paths_that_are_expected_here_are_among_those_that_are_tested() {
    let tested: Vec<_> = all_kernels().iter().map(|kernels| kernels.path().as_str()).collect();
    let expected = std::env::var("MILLSTREAM_EXPECT_PATHS").unwrap_or_default();
    for path in expected.split(',').filter(|path| !path.is_empty()) {
        assert!(tested.contains(&path), "`{path}` of MILLSTREAM_EXPECT_PATHS is not tested here, only {tested:?}");
    }
}

/// A tile's operand, panel and constants, made by the functions that the encoder uses.
struct Tile {
    operand: Vec<u32>,
    scales: Vec<RowScale>,
    panel: Vec<u32>,
    constants: Vec<f32>,
    steps: usize,
}

impl Tile {
    fn new(kernels: &Kernels, rows: &[Vec<f32>], columns: &[Vec<f32>], bias: &[f32]) -> Self {
        let (precision, inputs) = (kernels.precision(), rows[0].len());
        let width = layout::operand_lanes(precision, inputs);
        let mut operand = vec![0; rows.len() * width];
        let mut lanes = vec![0; width];
        let mut scales = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            scales.push(kernels.lower(row, &mut lanes));
            for (block, lanes) in lanes.chunks(LANES).enumerate() {
                operand[(block * rows.len() + index) * LANES..][..LANES].copy_from_slice(lanes);
            }
        }
        let mut panel = vec![u32::MAX; layout::panel_lanes(precision, inputs)];
        let mut constants = vec![f32::NAN; PANEL_CONSTANTS];
        let columns: Vec<Column> = columns.iter().zip(bias).map(|(weights, &bias)| Column { weights, bias }).collect();
        layout::pack_panel(precision, &columns, &mut panel, &mut constants);
        Self { operand, scales, panel, constants, steps: layout::lanes(precision, inputs) }
    }

    fn compute(&self, kernels: &Kernels, rows: usize, stride: usize) -> Vec<f32> {
        let mut output = vec![f32::NAN; (rows - 1) * stride + PANEL];
        let call = TileCall {
            rows,
            steps: self.steps,
            operand: self.operand.as_ptr(),
            panel: self.panel.as_ptr(),
            panel_stride: PANEL,
            constants: self.constants.as_ptr(),
            scales: self.scales.as_ptr(),
            output: output.as_mut_ptr(),
            output_stride: stride,
            ahead: self.panel.as_ptr().cast(),
            ahead_stride: 64,
        };
        // Not by `Kernels::tile`: plain tiles may be of any height, and are asked for those of other paths.
        // SAFETY: all shapes are those of the buffers above.
        unsafe { (kernels.tile)(&call) };
        kernels.release();
        output
    }
}

#[test]
fn every_path_computes_the_products_that_plain_arithmetic_gives_for_odd_shapes() {
    for kernels in all_kernels() {
        let portable = Kernels::new(Path::Portable, kernels.precision()).unwrap();
        let mut random = StdRng::seed_from_u64(1);
        let tolerance = match kernels.precision() {
            Precision::F32 => 1e-5,
            Precision::Bf16 => 1e-2,
            Precision::Int8 => 1.5e-2,
        };
        for inputs in [1, 3, 4, 31, 64, 65, 130, 768] {
            for height in 1..=kernels.rows_max() {
                let width = if height % 2 == 0 { PANEL } else { height };
                let rows: Vec<_> = (0..height).map(|_| numbers(&mut random, inputs, -0.3, 2.0)).collect();
                let columns: Vec<_> = (0..width).map(|_| numbers(&mut random, inputs, -1.0, 1.0)).collect();
                let bias = numbers(&mut random, width, -1.0, 1.0);
                let stride = PANEL + height % 3;
                let tile = Tile::new(&kernels, &rows, &columns, &bias);
                let output = tile.compute(&kernels, height, stride);
                // From the same lanes, so that only the order of sums may differ.
                let plain = tile.compute(&portable, height, stride);
                let size = (inputs as f32).sqrt();
                for row in 0..height {
                    let outputs = output[row * stride..].iter().zip(&plain[row * stride..]).take(PANEL);
                    for (column, (output, plain)) in outputs.enumerate() {
                        let exact = columns.get(column).map_or(0.0, |weights| {
                            let products = rows[row].iter().zip(weights).map(|(a, b)| f64::from(a * b));
                            products.sum::<f64>() as f32 + bias[column]
                        });
                        let place =
                            format!("{:?} {inputs} inputs, row {row}/{height}, {column}/{width}", kernels.path());
                        assert!((output - exact).abs() <= tolerance * size, "{place}: {output} for {exact}");
                        assert!((output - plain).abs() <= 2e-5 * size, "{place}: {output} for {plain}");
                    }
                    let gap = &output[(row * stride + PANEL).min(output.len())..((row + 1) * stride).min(output.len())];
                    assert!(gap.iter().all(|x| x.is_nan()), "a tile writes only its own columns");
                }
            }
        }
    }
}

#[test]
fn eight_bit_extremes_do_not_saturate() {
    let inputs = 3072;
    for kernels in all_kernels().into_iter().filter(|k| k.precision() == Precision::Int8) {
        // The first number makes the range 0..=255 and the scale 1.
        let rows = vec![vec![255.0; inputs]; kernels.rows_max()];
        let columns = vec![vec![127.0; inputs], vec![-127.0; inputs]];
        let tile = Tile::new(&kernels, &rows, &columns, &[0.0, 0.0]);
        let output = tile.compute(&kernels, rows.len(), PANEL);
        let exact = 255.0 * 127.0 * inputs as f32;
        for row in output.chunks(PANEL) {
            assert!((row[0] - exact).abs() <= 1e-5 * exact, "{:?}: {} for {exact}", kernels.path(), row[0]);
            assert!((row[1] + exact).abs() <= 1e-5 * exact, "{:?}: {} for -{exact}", kernels.path(), row[1]);
        }
    }
}

#[test]
fn weights_that_were_rounded_by_the_same_rule_are_packed_without_loss() {
    let mut random = StdRng::seed_from_u64(2);
    let integers: Vec<i8> = (0..100).map(|i| if i == 3 { -127 } else { random.random_range(-126..=126) }).collect();
    let scale = 0.003_217;
    let weights: Vec<f32> = integers.iter().map(|&i| f32::from(i) * scale).collect();
    let mut panel = vec![0; layout::panel_lanes(Precision::Int8, weights.len())];
    let mut constants = vec![0.0; PANEL_CONSTANTS];
    let column = Column { weights: &weights, bias: 0.5 };
    layout::pack_panel(Precision::Int8, &[column], &mut panel, &mut constants);
    let packed: Vec<i8> =
        panel.iter().step_by(PANEL).flat_map(|lane| lane.to_le_bytes()).map(u8::cast_signed).collect();
    assert_eq!(packed, integers);
    assert!((constants[PANEL] - scale).abs() < 1e-9);
    assert_eq!(constants[2 * PANEL], integers.iter().map(|&i| f32::from(i)).sum::<f32>());
}

#[test]
fn rounding_to_integers_is_never_off_by_more_than_half_a_step() {
    let mut random = StdRng::seed_from_u64(3);
    for kernels in all_kernels().into_iter().filter(|k| k.precision() == Precision::Int8) {
        for (count, low, high) in
            [(1, -1.0, 1.0), (63, -0.17, 9.0), (64, 2.0, 3.0), (65, -5.0, -4.0), (200, -1e-3, 1e-3)]
        {
            let row = numbers(&mut random, count, low, high);
            let mut lanes = vec![u32::MAX; layout::operand_lanes(Precision::Int8, count)];
            let scale = kernels.lower(&row, &mut lanes);
            let bytes: Vec<u8> = lanes.iter().flat_map(|lane| lane.to_le_bytes()).collect();
            for (x, byte) in row.iter().zip(&bytes) {
                let back = (f32::from(*byte) - scale.zero) * scale.scale;
                assert!((x - back).abs() <= 0.501 * scale.scale, "{:?}: {x} became {back}", kernels.path());
            }
            assert!(bytes[count..].iter().all(|&byte| byte == 0));
        }
        let mut lanes = vec![0; LANES];
        let scale = kernels.lower(&[0.0; 20], &mut lanes);
        assert!(scale.scale > 0.0 && scale.zero == 0.0 && lanes.iter().all(|&lane| lane == 0));
    }
}

#[test]
fn bfloat16_rounds_to_the_nearest_even() {
    let row = [1.0, -1.0, 1.003_906_3, 1.011_718_8, 3.3e38, -0.0, 1e-3];
    for kernels in all_kernels().into_iter().filter(|k| k.precision() == Precision::Bf16) {
        let mut lanes = vec![u32::MAX; LANES];
        kernels.lower(&row, &mut lanes);
        for (index, x) in row.iter().enumerate() {
            let bits = (lanes[index / 2] >> (16 * (index % 2))) as u16;
            assert_eq!(bits, half::bf16::from_f32(*x).to_bits(), "{x}");
        }
        assert_eq!(lanes[3] >> 16, 0);
        assert!(lanes[4..].iter().all(|&lane| lane == 0));
    }
}

#[test]
fn activations_keep_their_promised_distance_to_the_functions() {
    for kernels in all_kernels() {
        let xs: Vec<f32> = (-1300..=1300).map(|i| i as f32 * 0.01).chain([-0.0, 50.0, -50.0, 1e-30]).collect();
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            let mut row = xs.clone();
            kernels.activate(&mut row, activation);
            let (least, slope) = if kernels.precision() == Precision::F32 { (1e-6, 1e-6) } else { (1.2e-4, 1e-5) };
            for (x, y) in xs.iter().zip(&row) {
                let exact = reference::activate(*x, activation);
                let tolerance = least + slope * x.abs();
                assert!((y - exact).abs() <= tolerance, "{:?} {activation:?}({x}) = {y}, not {exact}", kernels.path());
            }
        }
    }
}

#[test]
fn softmax_of_a_tile_equals_its_definition_and_pads_with_zeros() {
    let mut random = StdRng::seed_from_u64(4);
    for kernels in all_kernels() {
        for count in [1usize, 2, 15, 16, 17, 47, 48] {
            for rows in [1, 2, 5] {
                let (stride, blocks) = (64, count.div_ceil(LANES));
                let xs = numbers(&mut random, rows * stride, -20.0, 20.0);
                let mut tile = vec![u32::MAX; rows * blocks * LANES];
                kernels.softmax(&mut xs.clone(), count, &mut tile);
                for (row, xs) in xs.chunks(stride).enumerate() {
                    let largest = xs[..count].iter().copied().fold(f32::MIN, f32::max);
                    let sum: f64 = xs[..count].iter().map(|x| f64::from(x - largest).exp()).sum();
                    for index in 0..blocks * LANES {
                        let exact = if index < count { f64::from(xs[index] - largest).exp() / sum } else { 0.0 };
                        let y = f32::from_bits(tile[(index / LANES * rows + row) * LANES + index % LANES]);
                        let place = format!("{:?}, {index} of {count} in row {row}", kernels.path());
                        assert!((f64::from(y) - exact).abs() < 1e-6, "{place}: {y}, not {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_are_placed_in_blocks_side_by_side() {
    let xs: Vec<f32> = (0..3 * 40).map(|x| x as f32).collect();
    for kernels in all_kernels() {
        let mut tile = vec![u32::MAX; 3 * 2 * LANES];
        kernels.place(&xs[..2 * 40 + 32], 40, &mut tile);
        for (row, index) in (0..3).flat_map(|row| (0..32).map(move |index| (row, index))) {
            let placed = tile[(index / LANES * 3 + row) * LANES + index % LANES];
            assert_eq!(f32::from_bits(placed), xs[row * 40 + index], "{:?}", kernels.path());
        }
    }
}

#[test]
fn layer_norms_equal_their_definition() {
    let mut random = StdRng::seed_from_u64(5);
    for kernels in all_kernels() {
        for width in [1, 5, 16, 33, 64, 384] {
            let [x, added, scale, shift] = [(); 4].map(|()| numbers(&mut random, width, -2.0, 3.0));
            let mut row = x.clone();
            kernels.add_and_normalise(&mut row, &added, &scale, &shift, 1e-12);
            let sums: Vec<f64> = x.iter().zip(&added).map(|(a, b)| f64::from(a + b)).collect();
            let mean = sums.iter().sum::<f64>() / width as f64;
            let variance = sums.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / width as f64;
            for i in 0..width {
                let exact = (sums[i] - mean) / (variance + 1e-12).sqrt() * f64::from(scale[i]) + f64::from(shift[i]);
                assert!((f64::from(row[i]) - exact).abs() < 1e-5, "{:?}, {i} of {width}", kernels.path());
            }
        }
    }
}

#[test]
fn tiles_cover_all_rows_once_and_know_their_rows() {
    for rows_max in [1, 4, 6, 14] {
        for rows in 1..200 {
            let tiles = Tiles::new(rows, rows_max);
            let mut next = 0;
            for index in 0..tiles.count() {
                let (first, height) = tiles.tile(index);
                assert!(first == next && height >= 1 && height <= rows_max);
                assert!((first..first + height).all(|row| tiles.tile_of(row) == (first, height)));
                next += height;
            }
            assert_eq!(next, rows);
        }
    }
}

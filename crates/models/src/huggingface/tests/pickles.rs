//! Pickles that hold weights are read; pickles that would run something are not.

use proptest::prelude::*;

use super::*;
use crate::huggingface::file_bytes::FileBytes;
use crate::huggingface::pickle::unpickle;
use crate::huggingface::torch_file;

fn refused(pickle: &[u8]) -> String {
    unpickle(pickle).err().expect("it is refused").to_string()
}

#[test]
fn a_pickle_that_would_run_a_command_is_refused_by_the_name_it_calls() {
    // What `pickle.dumps` makes of an object whose `__reduce__` answers `(os.system, ("true",))`, in protocols 2 and 4.
    let message = refused(b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.");
    assert!(message.contains("`posix.system`") && message.contains("safetensors"), "{message}");
    let framed = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.";
    assert!(refused(framed).contains("`posix.system`"));
    for name in
        ["torch\nload\n", "builtins\neval\n", "torch._utils\n_rebuild_sparse_tensor\n", "torch\nComplexFloatStorage\n"]
    {
        let message = refused(&[b"\x80\x02c", name.as_bytes(), b"."].concat());
        assert!(message.contains("which is not run"), "{message}");
    }
}

#[test]
fn an_opcode_that_weights_do_not_need_is_named() {
    // INST, OBJ, EXT1, NEWOBJ: other ways to make objects.
    for code in [b'i', b'o', 0x82, 0x81] {
        let message = refused(&[0x80, 2, code]);
        assert!(message.contains(&format!("0x{code:02x}")), "{message}");
    }
}

#[test]
fn deep_nesting_and_cycles_cost_no_stack() {
    let mut nested = b"\x80\x02]".to_vec();
    nested.extend(std::iter::repeat_n(0x85, 1_000_000));
    nested.push(b'.');
    assert!(unpickle(&nested).is_ok());
    // A list that holds itself.
    assert!(unpickle(b"\x80\x02]q\x00h\x00a.").is_ok());
}

#[test]
fn a_tensor_that_reaches_beyond_its_storage_is_refused() {
    // The old format with one float in storage `0`, and a tensor that claims `shape` of it.
    let file = |shape: u8, stride: u8| {
        let mut file = b"\x80\x02\x8a\x01\x2a.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
        file.extend(b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n");
        file.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01NtQK\x00K");
        file.extend([shape, 0x85, b'K', stride, 0x85]);
        file.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
        file.extend(b"\x80\x02](X\x01\x00\x00\x000e.");
        file.extend(1u64.to_le_bytes());
        file.extend(2.5f32.to_le_bytes());
        torch_file::open("w.bin".into(), FileBytes::InMemory(file.into()))
    };
    let weights = Weights::new(vec![file(1, 1).unwrap()]);
    assert_eq!(weights.read("w", &[1]).unwrap(), [2.5]);
    for (shape, stride) in [(2, 1), (200, 0)] {
        let message = file(shape, stride).err().unwrap().to_string();
        assert!(message.contains("tensor `w`") && message.contains("beyond its storage"), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any byte of a real file may be wrong: the answer is an error or a model, never a panic.
    #[test]
    fn a_damaged_file_never_panics(at in 0.0..1.0f64, byte: u8, is_old: bool) {
        let name = if is_old { "bert-of-2019" } else { "bert-multi-label-torch" };
        let mut bytes = fs::read(testdata(name).join("pytorch_model.bin")).unwrap();
        // Most of the file is numbers; the interesting bytes are in the first tenth (old) and everywhere (ZIP).
        let reach = if is_old { bytes.len() / 5 } else { bytes.len() };
        let index = (at * reach as f64) as usize;
        bytes[index] = byte;
        if let Ok(file) = torch_file::open("w.bin".into(), FileBytes::InMemory(bytes.into())) {
            let shapes: Vec<_> = file.places.iter().map(|(name, place)| (name.clone(), place.shape.clone())).collect();
            let weights = Weights::new(vec![file]);
            for (name, shape) in shapes {
                let _ = weights.read(&name, &shape);
            }
        }
    }
}

//! Checkpoints of the published PyTorch code.

use std::path::Path;

use burn_store::{
    KeyRemapper, ModuleSnapshot, PyTorchToBurnAdapter, PytorchStore, SafetensorsStore,
};

use super::Mdeq;
use crate::interchange::{WeightsError, complete};

/// Maps the names of PyTorch's `Sequential`s, which count their parts, to those of the fields here.
const NAMES: [(&str, &str); 13] = [
    (r"^module\.", ""),
    (r"^downsample\.0\.weight$", "downsample.0.conv.weight"),
    (r"^downsample\.1\.", "downsample.0.norm."),
    (r"^downsample\.3\.weight$", "downsample.1.conv.weight"),
    (r"^downsample\.4\.", "downsample.1.norm."),
    (r"^stage0\.0\.", "stage0.conv."),
    (r"^stage0\.1\.", "stage0.norm."),
    (r"(fuse_layers\.\d+\.\d+\.net)\.(conv|gnorm)\.", "$1.0.$2."),
    (
        r"^(incre_modules|downsamp_modules|final_layer)\.",
        "head.$1.",
    ),
    (r"^(head\.incre_modules\.\d+)\.0\.", "$1."),
    (r"^(head\..*downsample)\.0\.", "$1.conv."),
    (r"^(head\..*downsample)\.1\.", "$1.norm."),
    (
        r"^(head\.(?:downsamp_modules\.\d+|final_layer))\.0\.",
        "$1.conv.",
    ),
];

/// Maps the norms of the same parts, after [`NAMES`].
const NORM: (&str, &str) = (
    r"^(head\.(?:downsamp_modules\.\d+|final_layer))\.1\.",
    "$1.norm.",
);

impl Mdeq {
    /// The model with the weights of a checkpoint of TorchDEQ's MDEQ for CIFAR
    /// (`deq-zoo/mdeq/mdeq_cifar`) with weight normalisation. The checkpoint is a state dictionary
    /// written by `torch.save` (`.pth`, `.pt`), possibly under the key `state_dict`, or the same
    /// tensors as `.safetensors`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or its names or shapes are not those of the
    /// configuration.
    pub fn read_pytorch(mut self, path: &Path) -> Result<Self, WeightsError> {
        let names = NAMES.into_iter().chain([NORM]).collect();
        let names = KeyRemapper::from_patterns(names).map_err(WeightsError::store)?;
        let safetensors = path.extension().is_some_and(|e| e == "safetensors");
        let mut result = if safetensors {
            let mut store = SafetensorsStore::from_file(path)
                .with_from_adapter(PyTorchToBurnAdapter)
                .remap(names)
                .validate(false)
                .allow_partial(true);
            self.load_from(&mut store).map_err(WeightsError::store)?
        } else {
            let mut store = PytorchStore::from_file(path)
                .remap(names)
                // The lists of fusions have a gap on the diagonal.
                .map_indices_contiguous(false)
                .validate(false)
                .allow_partial(true);
            self.load_from(&mut store).map_err(WeightsError::store)?
        };
        // PyTorch counts the batches that its running statistics have seen.
        result
            .unused
            .retain(|name| !name.ends_with("num_batches_tracked"));
        complete(result)?;
        Ok(self)
    }
}

//! A model's configuration as Triton's clients read it. Nothing of it is read here: it says how things are.

use std::time::Duration;

use tidemill_proto::inference::model_config::SchedulingChoice;
use tidemill_proto::inference::model_instance_group::Kind;
use tidemill_proto::inference::model_metadata_response::TensorMetadata;
use tidemill_proto::inference::{
    DataType, ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup, ModelOutput, ModelTransactionPolicy,
};

use crate::model::Model;
use crate::services::tensors;

/// How a server batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batching {
    pub(crate) max_delay: Duration,
}

/// The configuration of a model. Its tensors have all their dimensions, so that there is no `max_batch_size`: requests of
/// different callers run together all the same.
pub(super) fn of(model: &Model, batching: Batching) -> ModelConfig {
    let info = model.info();
    let input = tensors::input_metadata(model).into_iter().map(|TensorMetadata { name, datatype, shape }| ModelInput {
        name,
        data_type: data_type(&datatype).into(),
        dims: shape,
        optional: false,
    });
    let output = tensors::output_metadata(model).into_iter().map(|TensorMetadata { name, datatype, shape }| {
        ModelOutput { name, data_type: data_type(&datatype).into(), dims: shape }
    });
    let delay = u64::try_from(batching.max_delay.as_micros()).unwrap_or(u64::MAX);
    ModelConfig {
        name: info.name.clone(),
        platform: tensors::platform(model).to_owned(),
        backend: "tidemill".to_owned(),
        input: input.collect(),
        output: output.collect(),
        instance_group: vec![ModelInstanceGroup { name: info.name.clone(), count: 1, kind: Kind::Cpu.into() }],
        scheduling_choice: Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching {
            max_queue_delay_microseconds: delay,
            ..ModelDynamicBatching::default()
        })),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: matches!(model, Model::Generator(_)) }),
        ..ModelConfig::default()
    }
}

fn data_type(datatype: &str) -> DataType {
    let name = if datatype == "BYTES" { "TYPE_STRING".to_owned() } else { format!("TYPE_{datatype}") };
    DataType::from_str_name(&name).unwrap_or(DataType::TypeInvalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datatypes_have_the_names_that_a_configuration_gives_them() {
        assert_eq!(data_type("BYTES"), DataType::TypeString);
        assert_eq!(data_type("BF16"), DataType::TypeBf16);
        assert_eq!(data_type("FP32"), DataType::TypeFp32);
        assert_eq!(data_type("COMPLEX"), DataType::TypeInvalid);
    }
}

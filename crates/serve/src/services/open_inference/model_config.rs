//! A model's configuration as Triton's clients read it. Nothing of it is read here: it says how things are.

use tidemill_proto::inference::model_config::SchedulingChoice;
use tidemill_proto::inference::model_instance_group::Kind;
use tidemill_proto::inference::model_metadata_response::TensorMetadata;
use tidemill_proto::inference::{
    DataType, ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup, ModelOutput, ModelTransactionPolicy,
};

use crate::batch::Schedule;
use crate::model::Model;
use crate::priority::Priority;
use crate::services::tensors;

/// The configuration of a model. Its tensors have all their dimensions, so that there is no `max_batch_size`: requests of
/// different callers run together all the same.
pub(super) fn of(model: &Model) -> ModelConfig {
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
    let schedule = model.schedule();
    let instances = schedule.map_or(1, |schedule| i32::try_from(schedule.instances).unwrap_or(i32::MAX));
    ModelConfig {
        name: info.name.clone(),
        platform: tensors::platform(model).to_owned(),
        backend: "tidemill".to_owned(),
        input: input.collect(),
        output: output.collect(),
        instance_group: vec![ModelInstanceGroup { name: info.name.clone(), count: instances, kind: Kind::Cpu.into() }],
        scheduling_choice: Some(SchedulingChoice::DynamicBatching(schedule.map(batching).unwrap_or_default())),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: matches!(model, Model::Generator(_)) }),
        ..ModelConfig::default()
    }
}

fn batching(schedule: &Schedule) -> ModelDynamicBatching {
    let sizes = schedule.preferred.iter().map(|size| i32::try_from(*size).unwrap_or(i32::MAX));
    ModelDynamicBatching {
        preferred_batch_size: sizes.collect(),
        max_queue_delay_microseconds: u64::try_from(schedule.max_delay.as_micros()).unwrap_or(u64::MAX),
        priority_levels: Priority::LEVELS as u64,
        default_priority_level: Priority::default().level() as u64 + 1,
        ..ModelDynamicBatching::default()
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

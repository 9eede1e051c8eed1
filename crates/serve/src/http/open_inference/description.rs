//! What models are and what they have done, as JSON: the public names of the messages' fields.

use serde_json::{Map, Value, json};
use tidemill_proto::inference::model_config::SchedulingChoice;
use tidemill_proto::inference::model_instance_group::Kind;
use tidemill_proto::inference::model_metadata_response::TensorMetadata;
use tidemill_proto::inference::{
    DataType, InferStatistics, ModelConfig, ModelMetadataResponse, ModelStatistics, StatisticDuration,
};

pub(super) fn metadata(model: &ModelMetadataResponse) -> Value {
    let tensors = |tensors: &[TensorMetadata]| -> Vec<Value> {
        let tensor =
            |tensor: &TensorMetadata| json!({"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape});
        tensors.iter().map(tensor).collect()
    };
    json!({
        "name": model.name, "versions": model.versions, "platform": model.platform,
        "inputs": tensors(&model.inputs), "outputs": tensors(&model.outputs),
    })
}

pub(super) fn config(config: &ModelConfig) -> Value {
    let kind = |number: i32| DataType::try_from(number).unwrap_or_default().as_str_name();
    let mut described = json!({
        "name": config.name, "platform": config.platform, "backend": config.backend,
        "max_batch_size": config.max_batch_size,
        "input": config.input.iter().map(|input| {
            json!({"name": input.name, "data_type": kind(input.data_type), "dims": input.dims, "optional": input.optional})
        }).collect::<Vec<_>>(),
        "output": config.output.iter().map(|output| {
            json!({"name": output.name, "data_type": kind(output.data_type), "dims": output.dims})
        }).collect::<Vec<_>>(),
        "instance_group": config.instance_group.iter().map(|group| {
            let kind = Kind::try_from(group.kind).unwrap_or_default().as_str_name();
            json!({"name": group.name, "count": group.count, "kind": kind})
        }).collect::<Vec<_>>(),
        "model_transaction_policy": {
            "decoupled": config.model_transaction_policy.as_ref().is_some_and(|policy| policy.decoupled),
        },
    });
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice {
        described["dynamic_batching"] = json!({
            "preferred_batch_size": batching.preferred_batch_size,
            "max_queue_delay_microseconds": batching.max_queue_delay_microseconds,
        });
    }
    described
}

pub(super) fn statistics(models: &[ModelStatistics]) -> Value {
    let duration = |duration: &Option<StatisticDuration>| {
        let StatisticDuration { count, ns } = duration.unwrap_or_default();
        json!({"count": count, "ns": ns})
    };
    let requests = |statistics: &InferStatistics| {
        let parts = [
            ("success", &statistics.success),
            ("fail", &statistics.fail),
            ("queue", &statistics.queue),
            ("compute_input", &statistics.compute_input),
            ("compute_infer", &statistics.compute_infer),
            ("compute_output", &statistics.compute_output),
            ("cache_hit", &statistics.cache_hit),
            ("cache_miss", &statistics.cache_miss),
        ];
        Value::Object(Map::from_iter(parts.map(|(name, part)| (name.to_owned(), duration(part)))))
    };
    let model = |model: &ModelStatistics| {
        let batches = model.batch_stats.iter().map(|batch| {
            json!({
                "batch_size": batch.batch_size, "compute_input": duration(&batch.compute_input),
                "compute_infer": duration(&batch.compute_infer), "compute_output": duration(&batch.compute_output),
            })
        });
        json!({
            "name": model.name, "version": model.version, "last_inference": model.last_inference,
            "inference_count": model.inference_count, "execution_count": model.execution_count,
            "inference_stats": requests(&model.inference_stats.unwrap_or_default()),
            "batch_stats": batches.collect::<Vec<_>>(),
        })
    };
    json!({"model_stats": models.iter().map(model).collect::<Vec<_>>()})
}

//! The struct column that a prediction becomes.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, Float64Array, ListBuilder, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use millstream_core::{Error, Result};

use crate::{ModelInfo, Prediction, Task};

/// The type of a model's output column.
///
/// * Classification: `{label: Utf8, score: Float64, scores: {<label>: Float64, …}, model: Utf8, model_digest: Utf8}`.
/// * Embedding: `{embedding: List<Float32>, model: Utf8, model_digest: Utf8}`.
/// * Regression: `{value: Float64, model: Utf8, model_digest: Utf8}`.
///
/// Every field may be null, so that a default value need not name all of them.
pub fn output_type(info: &ModelInfo) -> DataType {
    DataType::Struct(fields(info))
}

/// The output column for `predictions`, one row each, of the type [`output_type`] says. `label` is that of the highest
/// score, the first of equals, whether or not others fit as well ([`ModelInfo::multi_label`]). Scores are rounded to
/// six decimals, which is beyond what any model means by them.
///
/// # Errors
/// `Bug`: a prediction is not of the model's task, or has another number of scores than the model has labels.
pub fn output_column(info: &ModelInfo, predictions: &[Prediction]) -> Result<ArrayRef> {
    output_column_from(info, predictions, |_| info)
}

/// The same, where rows were scored by different models: `scorer` says which, and its name and digest are written.
///
/// # Errors
/// As [`output_column`].
pub fn output_column_from<'a>(
    info: &ModelInfo,
    predictions: &[Prediction],
    scorer: impl Fn(usize) -> &'a ModelInfo,
) -> Result<ArrayRef> {
    let mut columns = match info.task {
        Task::TextClassification | Task::TabularClassification => classification_columns(info, predictions)?,
        Task::TabularRegression => vec![value_column(info, predictions)?],
        Task::Embedding => vec![embedding_column(info, predictions)?],
    };
    let rows = || (0..predictions.len()).map(&scorer);
    columns.push(Arc::new(StringArray::from_iter_values(rows().map(|model| &model.name))));
    columns.push(Arc::new(StringArray::from_iter_values(rows().map(|model| &model.digest))));
    Ok(Arc::new(StructArray::try_new_with_length(fields(info), columns, None, predictions.len())?))
}

fn fields(info: &ModelInfo) -> Fields {
    let mut fields = match info.task {
        Task::TabularRegression => vec![Field::new("value", DataType::Float64, true)],
        Task::TextClassification | Task::TabularClassification => vec![
            Field::new("label", DataType::Utf8, true),
            Field::new("score", DataType::Float64, true),
            Field::new("scores", DataType::Struct(score_fields(info)), true),
        ],
        Task::Embedding => {
            let item = Field::new_list_field(DataType::Float32, true);
            vec![Field::new("embedding", DataType::List(Arc::new(item)), true)]
        }
    };
    fields.push(Field::new("model", DataType::Utf8, true));
    fields.push(Field::new("model_digest", DataType::Utf8, true));
    fields.into()
}

fn score_fields(info: &ModelInfo) -> Fields {
    info.labels.iter().map(|label| Field::new(label.as_ref(), DataType::Float64, true)).collect()
}

fn classification_columns(info: &ModelInfo, predictions: &[Prediction]) -> Result<Vec<ArrayRef>> {
    let mut labels = Vec::with_capacity(predictions.len());
    let mut best_scores = Vec::with_capacity(predictions.len());
    let mut scores: Vec<Vec<f64>> = info.labels.iter().map(|_| Vec::with_capacity(predictions.len())).collect();
    for prediction in predictions {
        let Prediction::Scores(row) = prediction else { return Err(wrong_shape(info, "no scores")) };
        if row.len() != info.labels.len() || row.is_empty() {
            return Err(wrong_shape(info, &format!("{} scores for {} labels", row.len(), info.labels.len())));
        }
        let best = highest(row);
        labels.push(&info.labels[best]);
        best_scores.push(rounded(row[best]));
        for (column, &score) in scores.iter_mut().zip(row) {
            column.push(rounded(score));
        }
    }
    let scores = scores.into_iter().map(|column| Arc::new(Float64Array::from(column)) as ArrayRef).collect();
    let scores = StructArray::try_new_with_length(score_fields(info), scores, None, predictions.len())?;
    Ok(vec![
        Arc::new(StringArray::from_iter_values(labels)),
        Arc::new(Float64Array::from(best_scores)),
        Arc::new(scores),
    ])
}

fn embedding_column(info: &ModelInfo, predictions: &[Prediction]) -> Result<ArrayRef> {
    let mut list = ListBuilder::new(Float32Builder::new());
    for prediction in predictions {
        let Prediction::Embedding(numbers) = prediction else { return Err(wrong_shape(info, "no embedding")) };
        list.values().append_slice(numbers);
        list.append(true);
    }
    Ok(Arc::new(list.finish()))
}

fn value_column(info: &ModelInfo, predictions: &[Prediction]) -> Result<ArrayRef> {
    let value = |prediction: &Prediction| match prediction {
        Prediction::Value(value) => Ok(f64::from(*value)),
        _ => Err(wrong_shape(info, "no value")),
    };
    Ok(Arc::new(Float64Array::from(predictions.iter().map(value).collect::<Result<Vec<f64>>>()?)))
}

/// The index of the highest score, the first of equals.
pub fn highest(scores: &[f32]) -> usize {
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = i;
        }
    }
    best
}

fn rounded(score: f32) -> f64 {
    (f64::from(score) * 1e6).round() / 1e6
}

fn wrong_shape(info: &ModelInfo, what: &str) -> Error {
    Error::bug(format!("model `{}` ({}) answered with {what}", info.name, info.task.as_str()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Float64Type;

    use super::*;
    use crate::Reads;

    fn info(task: Task) -> ModelInfo {
        let labels = if task.is_classification() { vec!["negative".into(), "positive".into()] } else { vec![] };
        ModelInfo {
            name: "m".into(),
            digest: "d".into(),
            task,
            labels,
            multi_label: false,
            dimensions: None,
            reads: Reads::Text,
        }
    }

    #[test]
    fn scores_become_the_declared_struct() {
        let info = info(Task::TextClassification);
        let rows = [Prediction::Scores(vec![0.3, 0.7]), Prediction::Scores(vec![0.5, 0.5])];
        let column = output_column(&info, &rows).unwrap();
        assert_eq!(column.data_type(), &output_type(&info));
        let column = column.as_struct();
        let labels = column.column_by_name("label").unwrap().as_string::<i32>();
        assert_eq!((labels.value(0), labels.value(1)), ("positive", "negative"));
        let score = column.column_by_name("score").unwrap().as_primitive::<Float64Type>();
        assert_eq!(score.value(0), 0.7);
        let scores = column.column_by_name("scores").unwrap().as_struct();
        assert_eq!(scores.column_by_name("negative").unwrap().as_primitive::<Float64Type>().value(0), 0.3);
        assert_eq!(column.column_by_name("model_digest").unwrap().as_string::<i32>().value(1), "d");
    }

    #[test]
    fn embeddings_become_the_declared_struct_even_without_rows() {
        let info = info(Task::Embedding);
        for rows in [vec![], vec![Prediction::Embedding(vec![1.0, 2.0]), Prediction::Embedding(vec![3.0])]] {
            let column = output_column(&info, &rows).unwrap();
            assert_eq!(column.data_type(), &output_type(&info));
            assert_eq!(column.len(), rows.len());
        }
    }

    #[test]
    fn a_value_becomes_the_declared_struct() {
        let info = info(Task::TabularRegression);
        let column = output_column(&info, &[Prediction::Value(1.5)]).unwrap();
        assert_eq!(column.data_type(), &output_type(&info));
        let values = column.as_struct().column_by_name("value").unwrap();
        assert_eq!(values.as_primitive::<Float64Type>().value(0), 1.5);
        assert!(output_column(&info, &[Prediction::Scores(vec![1.0])]).is_err());
    }

    #[test]
    fn a_prediction_of_the_wrong_shape_is_refused() {
        let info = info(Task::TextClassification);
        for wrong in [Prediction::Embedding(vec![1.0]), Prediction::Scores(vec![1.0]), Prediction::Scores(vec![])] {
            assert!(output_column(&info, &[wrong]).is_err());
        }
    }
}

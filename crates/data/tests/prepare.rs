//! What a user relies on from files to sides: formats, complaints that name their place, cleaning, splits, leakage.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tidemill_data::{
    BadRows, CleanConfig, Column, DataConfig, DataError, Example, Files, LabelColumn, Missing, Prepared, Reader,
    Repeats, SplitBy, SplitConfig, prepare, read_examples,
};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn read(&self, config: &DataConfig) -> Result<Vec<Example>, DataError> {
        Reader::open(config.train.paths(), config)?.examples().collect()
    }

    fn prepare(&self, data: &DataConfig, clean: &CleanConfig, split: &SplitConfig) -> Result<Prepared, DataError> {
        prepare(data, clean, split, 3, self.0.path())
    }
}

fn gzipped(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn labelled(path: impl Into<Files>) -> DataConfig {
    DataConfig { label: Some(LabelColumn::new("label")), ..DataConfig::new(path) }
}

fn short(examples: &[Example]) -> Vec<(u64, &str, Option<&str>)> {
    examples.iter().map(|e| (e.row.line, e.text.as_str(), e.label.as_deref())).collect()
}

/// The sentence of the error, after a check that it names the file.
fn complaint<T>(path: &Path, result: Result<T, DataError>) -> String {
    let Err(error) = result else { panic!("{} was accepted", path.display()) };
    let sentence = error.to_string();
    assert!(sentence.contains(&path.display().to_string()), "{sentence}");
    sentence
}

fn parquet(path: &Path) {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, StructArray};
    use arrow_schema::{DataType, Field};

    let inner: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("z")]));
    let nested = StructArray::from(vec![(Arc::new(Field::new("inner", DataType::Utf8, true)), inner)]);
    let batch = RecordBatch::try_from_iter([
        ("text", Arc::new(StringArray::from(vec!["one", "two", "three"])) as ArrayRef),
        ("label", Arc::new(Int64Array::from(vec![1, 0, 1])) as ArrayRef),
        ("score", Arc::new(Float64Array::from(vec![0.5, -1.0, 2.25])) as ArrayRef),
        ("deep", Arc::new(nested) as ArrayRef),
    ])
    .unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn every_format_gives_the_same_rows_plain_and_gzipped() {
    let folder = Folder::new();
    let files = [
        ("a.csv", "text,label\none,1\n\"two\",0\nthree,1\n", [2, 3, 4]),
        ("a.tsv", "text\tlabel\none\t1\ntwo\t0\nthree\t1", [2, 3, 4]),
        (
            "a.jsonl",
            "{\"text\":\"one\",\"label\":1}\n\n{\"x\":[1,{}],\"label\":0,\"text\":\"t\\u0077o\"}\n{\"text\":\"three\",\"label\":1}",
            [1, 3, 4],
        ),
    ];
    let check = |path: PathBuf, lines: [u64; 3]| {
        let examples = folder.read(&labelled(path)).unwrap();
        let wanted = [(lines[0], "one", Some("1")), (lines[1], "two", Some("0")), (lines[2], "three", Some("1"))];
        assert_eq!(short(&examples), wanted);
    };
    for (name, content, lines) in files {
        check(folder.write(name, content), lines);
        check(folder.write(&format!("{name}.gz"), gzipped(content.as_bytes())), lines);
        // Gzip is told by its first bytes, not by its name.
        check(folder.write(name, gzipped(content.as_bytes())), lines);
    }
    let path = folder.path("a.parquet");
    parquet(&path);
    check(path.clone(), [1, 2, 3]);
    let packed = gzipped(&std::fs::read(&path).unwrap());
    check(folder.write("a.parquet.gz", packed), [1, 2, 3]);

    let path = folder.write("a.txt.gz", gzipped(b"\xEF\xBB\xBFone\r\ntwo\n"));
    let examples = folder.read(&DataConfig::new(path)).unwrap();
    assert_eq!(short(&examples), [(1, "one", None), (2, "two", None)]);
}

#[test]
fn columns_go_by_number_and_by_dotted_path() {
    let folder = Folder::new();
    let path = folder.write("a.tsv", "fine \"film\t1\nso so\t0\n");
    let numbered = DataConfig { text: Column::Number(1), label: Some(LabelColumn::new(2)), ..DataConfig::new(path) };
    assert_eq!(short(&folder.read(&numbered).unwrap()), [(1, "fine \"film", Some("1")), (2, "so so", Some("0"))]);

    let path = folder.write("a.jsonl", "{\"a\":{\"b\":\"deep\",\"c\":2.0},\"t\":\"2026-01-02\"}\n");
    let nested = DataConfig {
        text: "a.b".into(),
        label: Some(LabelColumn::new("a.c")),
        time: Some("t".into()),
        ..DataConfig::new(path)
    };
    let examples = folder.read(&nested).unwrap();
    assert_eq!(short(&examples), [(1, "deep", Some("2.0"))]);
    assert_eq!(examples[0].time, Some(1_767_312_000));

    let path = folder.path("a.parquet");
    parquet(&path);
    let nested =
        DataConfig { text: "deep.inner".into(), label: Some(LabelColumn::new("score")), ..DataConfig::new(path) };
    let wanted = [(1, "x", Some("0.5")), (2, "", Some("-1.0")), (3, "z", Some("2.25"))];
    assert_eq!(short(&folder.read(&nested).unwrap()), wanted);
}

#[test]
fn line_numbers_stay_right_behind_quoted_breaks_and_blank_lines() {
    let folder = Folder::new();
    let content = "text,label\n\n\"a\r\n\"\"b\"\"\n\",0\n\n\"c, d\",1\r\n";
    let examples = folder.read(&labelled(folder.write("a.csv", content))).unwrap();
    assert_eq!(short(&examples), [(3, "a\r\n\"b\"\n", Some("0")), (7, "c, d", Some("1"))]);
}

#[test]
fn what_is_no_file_of_rows_is_told_in_a_sentence() {
    let folder = Folder::new();
    let path = folder.path("none.csv");
    assert!(complaint(&path, folder.read(&labelled(path.clone()))).contains("no such file"));
    let path = folder.0.path().to_path_buf();
    assert!(complaint(&path, folder.read(&labelled(path.clone()))).contains("a folder"));
    for (name, content, wanted) in [
        ("empty.csv", &b""[..], "holds no rows"),
        ("header.csv", b"text,label\n", "holds no rows"),
        ("empty.jsonl", b"\n\n", "holds no rows"),
        ("empty.parquet", b"", "holds no rows"),
        ("bad.parquet", b"PAR1 no more than this", "not a readable Parquet file"),
        ("wide.csv", b"\xFF\xFEt\0e\0", "UTF-16"),
        ("a.doc", b"text,label\n", "`format`"),
        ("a.csv", b"text;label\na;1\n", "line 1: no column `text` (key `text`)"),
        ("b.csv", b"text,lable\na,1\n", "no column `label` (key `label`) (did you mean `lable`?)"),
        ("b.jsonl", b"{\"text\":\"a\",\"lable\":1}", "line 1: no column `label` (key `label`) (did you mean `lable`?)"),
    ] {
        let path = folder.write(name, content);
        let sentence = complaint(&path, folder.read(&labelled(path.clone())));
        assert!(sentence.contains(wanted), "{sentence}");
    }
    let path = folder.write("n.csv", "a,b\n");
    let numbered = DataConfig { text: Column::Number(3), ..DataConfig::new(path.clone()) };
    assert!(complaint(&path, folder.read(&numbered)).contains("no column 3 (key `text`); the columns are 1 to 2"));
}

#[test]
fn broken_gzip_names_the_line_it_came_to() {
    let folder = Folder::new();
    let rows: String = (0..20_000).map(|i| format!("text {i} {},{}\n", i * 7919 % 1000, i % 2)).collect();
    let whole = gzipped(format!("text,label\n{rows}").as_bytes());
    let path = folder.write("cut.csv.gz", &whole[..whole.len() / 2]);
    let sentence = complaint(&path, folder.read(&labelled(path.clone())));
    assert!(sentence.contains("cut short") && sentence.contains(", line "), "{sentence}");

    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xA5);
    let path = folder.write("damaged.csv.gz", damaged);
    // Damage may first show as rows that make no sense; skipping those still ends at the checksum.
    let config = DataConfig { bad_rows: BadRows::Skip, ..labelled(path.clone()) };
    let sentence = complaint(&path, folder.read(&config));
    assert!(sentence.contains("gzip data"), "{sentence}");

    let path = folder.path("a.parquet");
    parquet(&path);
    let packed = gzipped(&std::fs::read(&path).unwrap());
    let path = folder.write("cut.parquet.gz", &packed[..packed.len() - 20]);
    assert!(complaint(&path, folder.read(&labelled(path.clone()))).contains("cut short"));
}

#[test]
fn a_bad_row_stops_with_its_place_or_is_skipped_and_counted() {
    let folder = Folder::new();
    let long = "x".repeat(200);
    let csv = |row: &str| format!("text,label\nfine,1\n{row}\nlast,0\n").into_bytes();
    let json = |row: &str| {
        format!("{{\"text\":\"fine\",\"label\":1}}\n\n{row}\n{{\"text\":\"last\",\"label\":0}}").into_bytes()
    };
    let mut latin = csv("caf_,1");
    let at = latin.iter().position(|byte| *byte == b'_').unwrap();
    latin[at] = 0xE9;
    for (name, content, wanted) in [
        ("a.csv", csv("one,two,3"), "line 3: 3 fields where the file's first row has 2"),
        ("b.csv", csv("one"), "line 3: 1 fields"),
        ("c.csv", latin, "line 3, column 1 (`text`), byte 4: the bytes are not UTF-8"),
        ("d.csv", csv("\"one\"x,1"), "line 3, column 1 (`text`): characters follow a closing quote"),
        ("e.csv", csv("\"one,1"), "line 3, column 1 (`text`): a quoted field is never closed"),
        ("f.csv", csv(&format!("{long},1")), "line 3: the row is larger than 100 bytes"),
        ("a.jsonl", json("{\"text\": oops}"), "line 3, column 10: not a JSON object"),
        ("b.jsonl", json("[1, 2]"), "line 3, column "),
        ("c.jsonl", json("{\"text\":[\"a\"],\"label\":1}"), "line 3, column `text`: a list where a text"),
        ("d.jsonl", json(&format!("{{\"text\":\"{long}\",\"label\":1}}")), "line 3: the row is larger"),
    ] {
        let path = folder.write(name, content);
        let mut config = DataConfig { max_row_bytes: 100, ..labelled(path.clone()) };
        let sentence = complaint(&path, folder.read(&config));
        assert!(sentence.contains(wanted), "{sentence}");

        config.bad_rows = BadRows::Skip;
        let mut reader = Reader::open(config.train.paths(), &config).unwrap();
        let rows: usize = reader.by_ref().map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows, 2, "{name}");
        assert_eq!((reader.rows(), reader.skipped()[0].rows), (3, 1), "{name}");
        assert!(reader.skipped()[0].examples[0].contains(wanted), "{name}");
    }
}

#[test]
fn labels_are_cut_counted_and_checked() {
    let folder = Folder::new();
    let path = folder.write("a.csv", "text,label\nbad,-2\nso so,0.1\nfine,3\nodd,x\n,1\nnone,\n");
    let mut data = labelled(path.clone());
    data.bad_rows = BadRows::Skip;
    data.label = toml::from_str::<DataConfig>(
        "train = 'a'\nlabel = { column = 'label', cut = [{ below = -0.5, label = 'negative' }, { above = 0.5, label = 'positive' }] }",
    )
    .unwrap()
    .label;
    let none = SplitConfig { validation: Some(0.0), test: Some(0.0), ..Default::default() };
    let prepared = folder.prepare(&data, &CleanConfig::default(), &none).unwrap();
    assert_eq!(prepared.labels, ["negative", "positive"]);
    let train: Vec<_> = (0..prepared.train.len()).map(|i| (prepared.train.text(i), prepared.train.label(i))).collect();
    assert_eq!(train, [("bad", Some(0)), ("fine", Some(1))]);
    assert_eq!(prepared.train.describe_row(1), "a.csv:4");
    let step = |name: &str| prepared.report.steps.iter().find(|step| step.step == name).map(|step| step.rows);
    assert_eq!(step("label in none of the intervals"), Some(1));
    assert_eq!((step("text missing"), step("label missing")), (Some(1), Some(1)));
    assert_eq!(prepared.report.skipped[0].what, "label is not a number");
    let text = prepared.report.to_string();
    assert!(text.contains("label in none of the intervals") && text.contains("Classes"), "{text}");

    data.bad_rows = BadRows::Stop;
    let sentence = complaint(&path, folder.prepare(&data, &CleanConfig::default(), &none));
    assert!(sentence.contains("line 5, column `label`: `x` is not a number"), "{sentence}");

    let stop = CleanConfig { missing: Missing::Stop, ..Default::default() };
    data.bad_rows = BadRows::Skip;
    let sentence = complaint(&path, folder.prepare(&data, &stop, &none));
    assert!(sentence.contains("line 6, column `text`: the value is missing"), "{sentence}");

    let fill =
        CleanConfig { missing: Missing::Fill { text: Some("nothing said".into()), label: None }, ..Default::default() };
    let prepared = folder.prepare(&data, &fill, &none).unwrap();
    assert_eq!(prepared.train.text(2), "nothing said");
}

#[test]
fn a_label_never_seen_in_training_and_one_class_only_are_errors() {
    let folder = Folder::new();
    let train = folder.write("train.csv", "text,label\na,good\nb,bad\n");
    let other = folder.write("dev.csv", "text,label\nc,good\nd,bda\n");
    let mut data = labelled(train.clone());
    data.validation = Some(other.clone().into());
    let sentence = complaint(&other, folder.prepare(&data, &CleanConfig::default(), &SplitConfig::default()));
    assert!(sentence.contains("line 3, column `label`: the label `bda`"), "{sentence}");
    assert!(sentence.contains("did you mean `bad`?"), "{sentence}");

    let labels = ["bad".to_owned(), "good".to_owned()];
    let result = read_examples(std::slice::from_ref(&other), &data, &CleanConfig::default(), &labels, folder.0.path());
    assert!(complaint(&other, result).contains("`bda`"));
    let result = read_examples(std::slice::from_ref(&train), &data, &CleanConfig::default(), &labels, folder.0.path());
    let (examples, report) = result.unwrap();
    assert_eq!((examples.label(0), examples.label(1)), (Some(1), Some(0)));
    assert_eq!(report.rows_kept, 2);

    let path = folder.write("one.csv", "text,label\na,good\nb,good\n");
    let split = SplitConfig { validation: Some(0.0), test: Some(0.0), ..Default::default() };
    let sentence = complaint(&path, folder.prepare(&labelled(path.clone()), &CleanConfig::default(), &split));
    assert!(sentence.contains("all 2 examples") && sentence.contains("`good`"), "{sentence}");

    let error = folder.prepare(&labelled(train), &CleanConfig::default(), &SplitConfig::default());
    let sentence = error.unwrap_err().to_string();
    assert!(sentence.contains("validation side holds no examples"), "{sentence}");
}

#[test]
fn each_cleaning_step_is_counted_with_examples() {
    let folder = Folder::new();
    let content = "text,label\n<b>Bold</b>,1\ntwo  spaces,0\ne\u{301},1\nbell\u{7},0\n   ,1\nsame,1\nsame,1\nsame,0\n";
    let path = folder.write("a.csv", content);
    let clean = CleanConfig { html: true, ..Default::default() };
    let split = SplitConfig { validation: Some(0.0), test: Some(0.0), ..Default::default() };
    let prepared = folder.prepare(&labelled(path.clone()), &clean, &split).unwrap();
    let texts: Vec<&str> = prepared.train.texts().collect();
    assert_eq!(texts, ["Bold", "two spaces", "é", "bell", "same", "same"]);
    let report = &prepared.report;
    let counts: Vec<(&str, u64)> = report.steps.iter().map(|step| (step.step.as_str(), step.rows)).collect();
    let wanted = [
        ("HTML removed", 1),
        ("Unicode normalised", 1),
        ("control characters removed", 1),
        ("white space collapsed", 1),
        ("text missing", 0),
        ("label missing", 0),
        ("empty", 1),
        ("duplicates", 1),
    ];
    assert_eq!(counts, wanted);
    assert_eq!(report.steps[0].examples[0].before, "<b>Bold</b>");
    assert_eq!(report.steps[0].examples[0].row, "a.csv:2");
    assert_eq!((report.conflicts.texts, report.conflicts.rows), (1, 3));
    assert!(report.warnings.iter().any(|warning| warning.contains("conflicts")));
    assert_eq!((report.rows_read, report.rows_kept), (8, 6));

    let clean = CleanConfig { conflicts: Repeats::Drop, max_chars: Some(5), ..clean };
    let prepared = folder.prepare(&labelled(path), &clean, &split).unwrap();
    assert_eq!(prepared.train.texts().collect::<Vec<_>>(), ["Bold", "two s", "é", "bell"]);
}

#[test]
fn leakage_between_given_files_is_dropped_from_training_and_said() {
    let folder = Folder::new();
    let train = folder.write("train.csv", "text,label\nA  Film,1\nother,0\nthird,1\nmore,1\n");
    let dev = folder.write("dev.csv", "text,label\na film,1\nhis,0\nhis,0\n");
    let test = folder.write("test.csv", "text,label\nHIS,0\nTHIRD,1\n");
    let mut data = labelled(train);
    data.validation = Some(dev.into());
    data.test = Some(test.into());
    let prepared = folder.prepare(&data, &CleanConfig::default(), &SplitConfig::default()).unwrap();
    assert_eq!(prepared.train.texts().collect::<Vec<_>>(), ["other", "more"]);
    assert_eq!(prepared.validation.texts().collect::<Vec<_>>(), ["a film"]);
    assert_eq!(prepared.test.len(), 2);
    let pairs: Vec<(&str, &str, u64)> =
        prepared.report.leakage.iter().map(|leak| (leak.side.as_str(), leak.with.as_str(), leak.rows)).collect();
    assert_eq!(pairs, [("train", "validation", 1), ("train", "test", 1), ("validation", "test", 2)]);

    let keep: SplitConfig = toml::from_str("leakage = 'keep'").unwrap();
    let prepared = folder.prepare(&data, &CleanConfig::default(), &keep).unwrap();
    assert_eq!((prepared.train.len(), prepared.validation.len()), (4, 3));
    let stop: SplitConfig = toml::from_str("leakage = 'stop'").unwrap();
    let sentence = folder.prepare(&data, &CleanConfig::default(), &stop).unwrap_err().to_string();
    assert!(sentence.contains("train.csv:2") && sentence.contains("dev.csv:2"), "{sentence}");
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads_and_leaves_no_file() {
    let folder = Folder::new();
    let rows: String =
        (0..9000).map(|i| format!("review {} of \t film &amp; {},{},{}\n", i % 4000, i % 77, i % 3, i % 50)).collect();
    let path = folder.write("a.csv", format!("text,label,group\n{rows}"));
    let mut data = labelled(path);
    data.group = Some("group".into());
    let clean = CleanConfig { near_duplicates: Repeats::Drop, html: true, ..Default::default() };
    let run = |threads: usize, by: SplitBy| {
        let split = SplitConfig { by, ..Default::default() };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let prepared = pool.install(|| folder.prepare(&data, &clean, &split)).unwrap();
        let sides = [&prepared.train, &prepared.validation, &prepared.test];
        let rows = sides.map(|side| (0..side.len()).map(|i| side.describe_row(i)).collect::<Vec<_>>());
        (rows, prepared.report)
    };
    for by in [SplitBy::Stratified, SplitBy::Group, SplitBy::Hash] {
        let one = run(1, by);
        assert!(one == run(4, by), "{by:?}");
        assert!(one.0.iter().all(|rows| !rows.is_empty()), "{by:?}");
    }
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1);
}

#[test]
fn the_spool_folder_that_cannot_be_written_is_named() {
    let folder = Folder::new();
    let path = folder.write("a.csv", "text,label\na,1\nb,0\n");
    let nowhere = folder.path("nowhere");
    let result = prepare(&labelled(path), &CleanConfig::default(), &SplitConfig::default(), 1, &nowhere);
    assert!(complaint(&nowhere, result).contains("cannot make a temporary file here"));
}

#[test]
fn real_reviews_are_read_whole() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !shared.exists() {
        eprintln!("skipped: no ../shared/data");
        return;
    }
    let folder = Folder::new();
    let mut data = DataConfig {
        text: Column::Number(1),
        label: Some(LabelColumn::new(2)),
        ..DataConfig::new(shared.join("sst2/train.tsv"))
    };
    data.validation = Some(shared.join("sst2/dev.tsv").into());
    let prepared = folder.prepare(&data, &CleanConfig::default(), &SplitConfig::default()).unwrap();
    assert_eq!(prepared.report.rows_read, 6920 + 872);
    assert_eq!(prepared.validation.len(), 872);
    assert_eq!(prepared.validation.class_counts(), [428, 444]);
    assert!((6800..=6920).contains(&prepared.train.len()));

    let mut data = DataConfig::new(shared.join("debian/packages.valid.jsonl.gz"));
    data.label = Some(LabelColumn::new("topic"));
    data.bad_rows = BadRows::Stop;
    let clean = CleanConfig { near_duplicates: Repeats::Drop, ..Default::default() };
    let prepared = folder.prepare(&data, &clean, &SplitConfig::default()).unwrap();
    assert_eq!(prepared.report.rows_read, 2889);
    println!("{}", prepared.report);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What the `csv` crate writes is read back, with the line on which each row begins.
    #[test]
    fn csv_round_trips(rows in proptest::collection::vec(("[a-c\",\n\r é]{1,8}", "[ab\"]{1,3}"), 1..12)) {
        let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
        writer.write_record(["text", "label"]).unwrap();
        let mut wanted = Vec::new();
        let mut line = 2;
        for (text, label) in &rows {
            writer.write_record([text, label]).unwrap();
            wanted.push((line, text.clone(), Some(label.clone())));
            line += 1 + text.matches('\n').count() as u64;
        }
        let folder = Folder::new();
        let path = folder.write("a.csv", writer.into_inner().unwrap());
        let read: Vec<_> = folder.read(&labelled(path)).unwrap().into_iter().map(|e| (e.row.line, e.text, e.label)).collect();
        prop_assert_eq!(read, wanted);
    }

    #[test]
    fn json_lines_round_trip(rows in proptest::collection::vec((any::<String>(), "[a-z]{1,3}"), 1..12)) {
        let content: String = rows
            .iter()
            .map(|(text, label)| serde_json::json!({ "text": text, "label": label, "rest": [text] }).to_string() + "\n")
            .collect();
        let folder = Folder::new();
        let path = folder.write("a.jsonl", content);
        let read: Vec<_> = folder.read(&labelled(path)).unwrap().into_iter().map(|e| (e.text, e.label)).collect();
        let wanted: Vec<_> = rows.into_iter().map(|(text, label)| (text, Some(label))).collect();
        prop_assert_eq!(read, wanted);
    }

    /// No bytes at all may make a reader panic.
    #[test]
    fn any_bytes_are_answered(content in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_usize..5) {
        let folder = Folder::new();
        let name = ["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.parquet"][kind];
        let path = folder.write(name, content);
        for bad_rows in [BadRows::Stop, BadRows::Skip] {
            let mut config = DataConfig { bad_rows, text: Column::Number(1), ..DataConfig::new(path.clone()) };
            if kind == 2 {
                config.text = "text".into();
            }
            let _ = folder.read(&config);
        }
    }
}

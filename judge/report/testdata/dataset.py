"""Compares what an exported folder says of its data with the data, as pyarrow reads it."""
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

folder, check = pathlib.Path(sys.argv[1]), sys.argv[2]
head = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
croissant = json.loads((folder / "croissant.json").read_text())
citation = yaml.safe_load((folder / "CITATION.cff").read_text())
files = sorted(folder.glob(head["configs"][0]["data_files"][0]["path"]))
assert files and [f.relative_to(folder).as_posix() for f in files] == [f["contentUrl"] for f in croissant["distribution"]]
schema = pq.read_schema(files[0])
arrow = {"string": pa.string(), "bool": pa.bool_(), "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64()}
features = {f["name"]: arrow[f["dtype"]] if "dtype" in f else pa.list_(arrow[f["sequence"]]) for f in head["dataset_info"]["features"]}
assert list(features) == schema.names, (list(features), schema.names)
for field in schema:
    want = features[field.name]
    assert field.type == want or (pa.types.is_list(field.type) and field.type.value_type == want.value_type), field
for record_set, path in zip(croissant["recordSet"], files, strict=True):
    assert pq.read_schema(path).equals(schema)
    assert [f["name"] for f in record_set["field"]] == schema.names
    for f in record_set["field"]:
        assert f["source"]["fileObject"]["@id"] == path.relative_to(folder).as_posix()
        assert f.get("repeated", False) == pa.types.is_list(schema.field(f["name"]).type), f
asked = "dataLimitations dataBiases personalSensitiveInformation dataUseCases dataSocialImpact hasSyntheticData"
assert all(f"rai:{name}" in croissant for name in asked.split())
assert "prov:wasDerivedFrom" in croissant and "prov:wasGeneratedBy" in croissant
assert citation["type"] == "dataset" and citation["authors"] == [{"name": "TO FILL IN"}]
assert check in (folder / "README.md").read_text(), check
print(sum(pq.read_metadata(f).num_rows for f in files), "rows")

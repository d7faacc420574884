package report

import (
	_ "embed" // the context
	"encoding/json"
	"fmt"
	"strings"
)

//go:embed croissant_context.json
var croissantContext []byte // as Croissant 1.0 has it, and PROV

type object = map[string]any

var croissantTypes = map[string]string{"int32": "sc:Integer", "int64": "sc:Integer", "float64": "sc:Float", "bool": "sc:Boolean", "string": "sc:Text"}

// croissant is the metadata in Croissant 1.0, with the fields on responsible AI that
// NeurIPS asks for: those that a job knows are said, the others are left to fill in.
func (d *dataset) croissant() object {
	var distribution, sets []object
	for i, f := range d.Files {
		distribution = append(distribution, object{"@type": "cr:FileObject", "@id": f.Name, "name": f.Name, "contentUrl": f.Name,
			"encodingFormat": "application/x-parquet", "sha256": f.SHA256, "contentSize": fmt.Sprintf("%d B", f.Size)})
		id := "mismatches"
		if len(d.Files) > 1 {
			id = fmt.Sprintf("mismatches-%05d", i)
		}
		sets = append(sets, object{"@type": "cr:RecordSet", "@id": id, "name": id, "description": "One row a mismatch.", "field": d.fields(id, f.Name)})
	}
	o := object{
		"@context": json.RawMessage(croissantContext), "@type": "sc:Dataset", "conformsTo": []string{"http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"},
		"name":        fmt.Sprintf("Token mismatches of %s and %s", d.Settings.Small, d.Settings.Reference),
		"description": fmt.Sprintf("%d tokens at which two language models differ, in %d texts, with both continuations to the end of the sentence and a judge's verdict on whether they mean the same.", d.Mismatches, d.Texts),
		"license":     fillIn, "url": fillIn, "creator": object{"@type": "sc:Person", "name": fillIn}, "citeAs": "CITATION.cff", "version": "1.0.0",
		"distribution": distribution, "recordSet": sets,
	}
	for name, value := range d.responsible() {
		o[name] = value
	}
	return o
}

func (d *dataset) fields(set, file string) []object {
	var fields []object
	for _, c := range d.Fields {
		f := object{"@type": "cr:Field", "@id": set + "/" + c.Name, "name": c.Name, "dataType": croissantTypes[c.Type],
			"source": object{"fileObject": object{"@id": file}, "extract": object{"column": c.Name}}}
		if c.List {
			f["repeated"] = true
		}
		fields = append(fields, f)
	}
	return fields
}

func (d *dataset) responsible() object {
	var models, judges []string
	for _, m := range d.Models {
		models = append(models, m.Side+" model "+m.Name)
	}
	judges = append(judges, sortedKeys(d.Judges)...)
	collection := fmt.Sprintf("Predictions of two language models (%s) along the same texts; where they differ, each continuation was generated to the end of its sentence.", strings.Join(models, "; "))
	return object{
		"rai:hasSyntheticData":             true,
		"rai:dataCollection":               collection,
		"rai:dataCollectionType":           []string{"Software Collection"},
		"rai:dataPreprocessingProtocol":    fmt.Sprintf("tokenfork %s, job %s; every planned mismatch is a row, and its status says if it failed.", d.Version, d.Job),
		"rai:dataAnnotationProtocol":       "A language model was asked whether the two continuations mean the same. No human annotated.",
		"rai:machineAnnotationTools":       judges,
		"rai:dataUseCases":                 "Training and evaluating routers between two language models; measuring how often a difference in a token changes the meaning. Not for judging models in general. " + fillIn + ": other uses that are or are not valid.",
		"rai:dataLimitations":              "Verdicts are a model's, with its confidence. Continuations may be cut at the limit on new tokens. Rows of one text are not independent. " + fillIn + ": limits of the texts.",
		"rai:dataBiases":                   "The judge's preferences, those of both models, and the choice of texts. " + fillIn + ": biases of the texts.",
		"rai:personalSensitiveInformation": fillIn + ": whether the texts or what was generated hold personal or sensitive data.",
		"rai:dataSocialImpact":             fillIn,
		"rai:dataReleaseMaintenancePlan":   fillIn,
		"prov:wasDerivedFrom":              fillIn + ": the address of the texts",
		"prov:wasGeneratedBy":              collection,
	}
}

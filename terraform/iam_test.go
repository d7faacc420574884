//go:build applied

package terraform_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/store/storetest"
)

// operation is what a role asks of S3: writer (tasks, and whoever plans, submits and merges) or reader (a node that
// starts, whoever fetches results, and on the nodes all that is not below jobs/).
type operation struct {
	role string
	storetest.Operation
}

// texts reads "x" and ["x", "y"] alike.
type texts []string

func (l *texts) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*l = texts{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

type statement struct {
	Effect    string
	Action    texts
	Resource  texts
	Condition map[string]map[string]texts
}

type policy struct{ Statement []statement }

// like matches with * and ?, which for IAM, unlike for path.Match, reach over slashes.
func like(pattern, s string) bool {
	flat := strings.NewReplacer("/", "\x00")
	ok, err := path.Match(flat.Replace(pattern), flat.Replace(s))
	return ok && err == nil
}

func (s statement) matches(action, resource string, context map[string]string) (bool, error) {
	matched := func(pattern, of string) bool { return like(pattern, of) }
	if !slices.ContainsFunc(s.Action, func(p string) bool { return matched(p, action) }) ||
		!slices.ContainsFunc(s.Resource, func(p string) bool { return matched(p, resource) }) {
		return false, nil
	}
	for test, keys := range s.Condition {
		for key, values := range keys {
			got, given := context[key]
			switch test {
			case "StringLike":
				if !given || !slices.ContainsFunc(values, func(p string) bool { return matched(p, got) }) {
					return false, nil
				}
			case "Bool":
				if !given || !slices.Contains(values, got) {
					return false, nil
				}
			case "NumericLessThan":
				if !given || got >= values[0] { // versions of one digit each
					return false, nil
				}
			default:
				return false, fmt.Errorf("the test knows no condition %s", test)
			}
		}
	}
	return true, nil
}

// allows says whether one of the policies allows the operation and none denies it.
func allows(t *testing.T, policies []policy, action, resource string, context map[string]string) bool {
	t.Helper()
	allowed := false
	for _, p := range policies {
		for _, s := range p.Statement {
			hit, err := s.matches(action, resource, context)
			if err != nil {
				t.Fatal(err)
			}
			if hit && s.Effect == "Deny" {
				return false
			}
			allowed = allowed || hit
		}
	}
	return allowed
}

func parse(t *testing.T, r resource) policy {
	t.Helper()
	var p policy
	if err := json.Unmarshal([]byte(r.Values["policy"].(string)), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// bucketPolicies returns the bucket's ARN, its own policy and that of each role, as an example makes them.
func bucketPolicies(t *testing.T, resources []resource) (string, policy, map[string]policy) {
	t.Helper()
	roles := map[string]policy{}
	var arn string
	var own policy
	for _, r := range resources {
		switch r.Address {
		case "module.storage.aws_iam_policy.writer":
			roles["writer"] = parse(t, r)
		case "module.storage.aws_iam_policy.reader":
			roles["reader"] = parse(t, r)
		case "module.storage.aws_s3_bucket_policy.this":
			own = parse(t, r)
			arn = "arn:aws:s3:::" + r.Values["bucket"].(string)
		}
	}
	if len(roles) != 2 || len(own.Statement) == 0 {
		t.Fatalf("policies are missing: %d of 2 roles, %d statements of the bucket", len(roles), len(own.Statement))
	}
	return arn, own, roles
}

// operations are those of a whole run, which cmd/tokenfork's tests record at a real S3 server and keep up to date in
// testdata/recording.jsonl, and those around it, recorded here.
func operations(t *testing.T, e example) []operation {
	t.Helper()
	file, err := os.Open("testdata/recording.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out []operation
	for lines := json.NewDecoder(file); lines.More(); {
		op := operation{role: "writer"}
		if err := lines.Decode(&op.Operation); err != nil || op.Action == "" {
			t.Fatalf("testdata/recording.jsonl: not an operation: %v, %v", op, err)
		}
		if !strings.HasPrefix(op.Key, "jobs/") {
			op.role = "reader"
		}
		out = append(out, op)
	}
	for _, op := range fromUploadToResults(t, e) {
		out = append(out, operation{"reader", op})
	}
	return out
}

// ask puts an operation to IAM as S3 does: a list names the bucket and its prefix, all else an object.
func ask(t *testing.T, policies []policy, arn string, op operation) bool {
	t.Helper()
	context := map[string]string{"aws:SecureTransport": "true", "s3:TlsVersion": "1.3"}
	resource := arn + "/" + op.Key
	if op.Action == "s3:ListBucket" {
		resource, context["s3:prefix"] = arn, op.Key
	}
	return allows(t, policies, op.Action, resource, context)
}

func TestRolesMayDoWhatARunDoesAndNoMore(t *testing.T) {
	examples := applied(t)
	all := operations(t, examples["try"])
	for name, e := range examples {
		arn, own, roles := bucketPolicies(t, e.resources)
		for _, op := range all {
			if !ask(t, []policy{roles[op.role], own}, arn, op) {
				t.Errorf("%s: %s may not %s %s", name, op.role, op.Action, op.Key)
			}
		}
		for role, p := range roles {
			for _, right := range p.rights() {
				if !slices.ContainsFunc(all, func(op operation) bool { return op.role == role && ask(t, []policy{right}, arn, op) }) {
					t.Errorf("%s: nothing that a run does needs %s's %v", name, role, right)
				}
			}
			if ask(t, []policy{p, own}, arn+"-other", operation{role, storetest.Operation{Action: "s3:GetObject", Key: "jobs/first/job.json"}}) {
				t.Errorf("%s: %s may read another bucket", name, role)
			}
			if allows(t, []policy{p}, "s3:ListBucket", arn, nil) {
				t.Errorf("%s: %s may list the whole bucket", name, role)
			}
		}
		for _, op := range beyond() {
			if ask(t, []policy{roles[op.role], own}, arn, op) {
				t.Errorf("%s: %s may %s %q", name, op.role, op.Action, op.Key)
			}
		}
	}
}

// rights takes a policy apart: one action on one resource, under one value of each condition.
func (p policy) rights() []policy {
	var out []policy
	for _, s := range p.Statement {
		for _, action := range s.Action {
			for _, resource := range s.Resource {
				one := statement{Effect: s.Effect, Action: texts{action}, Resource: texts{resource}}
				if len(s.Condition) == 0 {
					out = append(out, policy{[]statement{one}})
				}
				for test, keys := range s.Condition {
					for key, values := range keys {
						for _, value := range values {
							one.Condition = map[string]map[string]texts{test: {key: texts{value}}}
							out = append(out, policy{[]statement{one}})
						}
					}
				}
			}
		}
	}
	return out
}

// beyond lists what neither role, or not this one, may do.
func beyond() []operation {
	var out []operation
	add := func(role, action string, keys ...string) {
		for _, key := range keys {
			out = append(out, operation{role, storetest.Operation{Action: action, Key: key}})
		}
	}
	add("writer", "s3:PutObject", "models/small/config.json", "software/tokenfork-linux-amd64", "tables/table.csv")
	add("writer", "s3:DeleteObject", "models/small/config.json")
	add("writer", "s3:GetObject", "models/small/config.json")
	for _, action := range []string{"s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"} {
		add("reader", action, "jobs/first/job.json")
	}
	for _, role := range []string{"writer", "reader"} {
		add(role, "s3:ListBucket", "", "other/", "jobs", "jobs-of-others/", "model")
		for _, action := range []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject"} {
			add(role, action, "other/file", "jobs-of-others/file", "file")
		}
		for _, action := range []string{
			"s3:DeleteObjectVersion", "s3:GetObjectVersion", "s3:PutObjectAcl", "s3:PutObjectTagging", "s3:RestoreObject",
			"s3:PutObjectRetention", "s3:BypassGovernanceRetention", "s3:ListMultipartUploadParts",
		} {
			add(role, action, "jobs/first/job.json")
		}
	}
	return out
}

func TestBucketIsLockedForAll(t *testing.T) {
	arn, own, roles := bucketPolicies(t, applied(t)["bucket"].resources)
	object := arn + "/jobs/first/job.json"
	for _, context := range []map[string]string{
		{"aws:SecureTransport": "false", "s3:TlsVersion": "1.2"},
		{"aws:SecureTransport": "true", "s3:TlsVersion": "1.1"},
	} {
		if allows(t, []policy{roles["writer"], own}, "s3:GetObject", object, context) {
			t.Errorf("a request with %v is answered", context)
		}
	}
	for _, action := range []string{
		"s3:PutBucketPolicy", "s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:PutLifecycleConfiguration", "s3:PutBucketVersioning",
		"s3:PutEncryptionConfiguration", "s3:PutBucketPublicAccessBlock", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads",
	} {
		for role, p := range roles {
			if allows(t, []policy{p, own}, action, arn, map[string]string{"aws:SecureTransport": "true", "s3:TlsVersion": "1.3"}) {
				t.Errorf("%s may %s", role, action)
			}
		}
	}
}

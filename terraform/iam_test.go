//go:build applied

package terraform_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// operation is one line of a recording: what a run asks of S3. For s3:ListBucket the key is the prefix. The role is
// writer (tasks, and whoever plans, submits and merges; the default) or reader (node start, readers of results).
type operation struct {
	Role   string `json:"role,omitempty"`
	Action string `json:"action"`
	Key    string `json:"key"`
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

// recording returns testdata/recording.jsonl and the file that $TOKENFORK_S3_RECORDING names: lines of operations.
func recording(t *testing.T) []operation {
	t.Helper()
	files := []string{"testdata/recording.jsonl"}
	if name := os.Getenv("TOKENFORK_S3_RECORDING"); name != "" {
		files = append(files, name)
	}
	var out []operation
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		for n := 1; lines.Scan(); n++ {
			op := operation{Role: "writer"}
			err := json.Unmarshal(lines.Bytes(), &op)
			if err != nil || op.Action == "" || (op.Role != "writer" && op.Role != "reader") {
				t.Fatalf("%s:%d: not an operation: %q, %v", name, n, lines.Text(), err)
			}
			out = append(out, op)
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
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

func TestRolesMayDoWhatARunDoes(t *testing.T) {
	for name, resources := range applied(t) {
		arn, own, roles := bucketPolicies(t, resources)
		for _, op := range recording(t) {
			if !ask(t, []policy{roles[op.Role], own}, arn, op) {
				t.Errorf("%s: %s may not %s %s", name, op.Role, op.Action, op.Key)
			}
		}
	}
}

func TestRolesMayDoNoMore(t *testing.T) {
	used := map[string]map[string]bool{"writer": {}, "reader": {}}
	for _, op := range recording(t) {
		used[op.Role][op.Action] = true
	}
	for name, resources := range applied(t) {
		arn, own, roles := bucketPolicies(t, resources)
		for role, p := range roles {
			granted := map[string]bool{}
			for _, s := range p.Statement {
				for _, action := range s.Action {
					granted[action] = true
				}
			}
			if !maps.Equal(granted, used[role]) {
				t.Errorf("%s: %s is granted %v, a run uses %v", name, role, granted, used[role])
			}
		}
		for _, op := range beyond() {
			if ask(t, []policy{roles[op.Role], own}, arn, op) {
				t.Errorf("%s: %s may %s %q", name, op.Role, op.Action, op.Key)
			}
		}
		for role, p := range roles {
			if ask(t, []policy{p, own}, arn+"-other", operation{Action: "s3:GetObject", Key: "jobs/first/job.json"}) {
				t.Errorf("%s: %s may read another bucket", name, role)
			}
			if allows(t, []policy{p}, "s3:ListBucket", arn, nil) {
				t.Errorf("%s: %s may list the whole bucket", name, role)
			}
		}
	}
}

// beyond lists what neither role, or not this one, may do.
func beyond() []operation {
	out := []operation{
		{"writer", "s3:PutObject", "models/small/config.json"},
		{"writer", "s3:PutObject", "software/tokenfork-linux-amd64"},
		{"writer", "s3:PutObject", "tables/table.csv"},
		{"writer", "s3:DeleteObject", "models/small/config.json"},
		{"writer", "s3:GetObject", "models/small/config.json"},
		{"reader", "s3:PutObject", "jobs/first/job.json"},
		{"reader", "s3:DeleteObject", "jobs/first/job.json"},
		{"reader", "s3:AbortMultipartUpload", "jobs/first/results.arrow"},
	}
	for _, role := range []string{"writer", "reader"} {
		for _, key := range []string{"", "other/", "jobs", "jobs-of-others/", "model"} {
			out = append(out, operation{role, "s3:ListBucket", key})
		}
		for _, key := range []string{"other/file", "jobs-of-others/file", "file"} {
			out = append(out, operation{role, "s3:GetObject", key}, operation{role, "s3:PutObject", key}, operation{role, "s3:DeleteObject", key})
		}
		for _, action := range []string{
			"s3:DeleteObjectVersion", "s3:GetObjectVersion", "s3:PutObjectAcl", "s3:PutObjectTagging", "s3:RestoreObject",
			"s3:PutObjectRetention", "s3:BypassGovernanceRetention", "s3:ListMultipartUploadParts",
		} {
			out = append(out, operation{role, action, "jobs/first/job.json"})
		}
	}
	return out
}

func TestBucketIsLockedForAll(t *testing.T) {
	arn, own, roles := bucketPolicies(t, applied(t)["bucket"])
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

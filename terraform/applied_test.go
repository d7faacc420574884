//go:build applied

package terraform_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// resource is one resource of a state.
type resource struct {
	Address string         `json:"address"`
	Mode    string         `json:"mode"`
	Type    string         `json:"type"`
	Values  map[string]any `json:"values"`
}

type module struct {
	Resources []resource `json:"resources"`
	Children  []module   `json:"child_modules"`
}

func (m module) all() []resource {
	out := slices.Clone(m.Resources)
	for _, child := range m.Children {
		out = append(out, child.all()...)
	}
	return out
}

// example is what one of examples/ makes.
type example struct {
	resources []resource
	nextSteps string
	bill      bill
}

// bill is what costs.tf adds up, in dollars; "" where nothing is known.
type bill struct {
	IdleHour     string   `json:"idle_hour"`
	IdleMonth    string   `json:"idle_month"`
	NodeHour     string   `json:"node_hour"`
	AllNodesHour string   `json:"all_nodes_hour"`
	RunHours     string   `json:"run_hours"`
	Run          string   `json:"run"`
	MonthAndARun string   `json:"month_and_a_run"`
	PricesOf     string   `json:"prices_of"`
	LeftOut      []string `json:"left_out"`
}

// applied returns the examples by their names: terraform/check leaves $TOKENFORK_APPLIED/NAME/state.json.
func applied(t *testing.T) map[string]example {
	t.Helper()
	examples, err := filepath.Glob("examples/*.tfvars")
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	out := map[string]example{}
	for _, file := range examples {
		name := strings.TrimSuffix(filepath.Base(file), ".tfvars")
		text, err := os.ReadFile(filepath.Join(os.Getenv("TOKENFORK_APPLIED"), name, "state.json"))
		if err != nil {
			t.Fatalf("run terraform/check, which applies the examples: %v", err)
		}
		var state struct {
			Values struct {
				Root    module `json:"root_module"`
				Outputs struct {
					NextSteps struct{ Value string } `json:"next_steps"`
					Bill      struct{ Value bill }   `json:"bill"`
				} `json:"outputs"`
			} `json:"values"`
		}
		if err := json.Unmarshal(text, &state); err != nil {
			t.Fatal(err)
		}
		e := example{nextSteps: state.Values.Outputs.NextSteps.Value, bill: state.Values.Outputs.Bill.Value}
		for _, r := range state.Values.Root.all() {
			if r.Mode == "managed" {
				e.resources = append(e.resources, r)
			}
		}
		out[name] = e
	}
	return out
}

func TestCounts(t *testing.T) {
	types := []string{
		"awscc_pcs_cluster", "awscc_pcs_compute_node_group", "awscc_pcs_queue", "aws_launch_template", "aws_placement_group",
		"aws_subnet", "aws_vpc_endpoint", "aws_efs_file_system", "aws_fsx_lustre_file_system", "aws_budgets_budget", "aws_s3_bucket", "aws_iam_policy", "aws_cloudwatch_log_delivery",
	}
	want := map[string][]int{
		"bucket":         {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0},
		"try":            {1, 2, 1, 2, 0, 2, 4, 1, 0, 1, 1, 2, 3},
		"p5":             {1, 3, 2, 3, 0, 1, 4, 1, 0, 1, 1, 2, 3},
		"capacity-block": {1, 3, 2, 3, 0, 1, 4, 1, 0, 1, 1, 2, 3},
		"spot":           {1, 2, 1, 2, 0, 3, 4, 1, 0, 1, 1, 2, 3},
	}
	for name, e := range applied(t) {
		got := make([]int, len(types))
		for _, r := range e.resources {
			if i := slices.Index(types, r.Type); i >= 0 {
				got[i]++
			}
		}
		if !slices.Equal(got, want[name]) {
			t.Errorf("%s makes %v, want %v of %v", name, got, want[name], types)
		}
	}
}

// TestEverythingIsTagged looks at what can carry tags: aws resources have tags_all, awscc ones tags.
func TestEverythingIsTagged(t *testing.T) {
	for name, e := range applied(t) {
		tagged := 0
		for _, r := range e.resources {
			tags, can := r.Values["tags_all"].(map[string]any)
			if strings.HasPrefix(r.Type, "awscc_") {
				tags, can = r.Values["tags"].(map[string]any)
				if !can {
					t.Errorf("%s: %s has no tags", name, r.Address)
				}
			}
			if !can {
				continue
			}
			tagged++
			if tags["Project"] != "tokenfork" || tags["Cluster"] != "tokenfork" || tags["ManagedBy"] != "terraform" {
				t.Errorf("%s: %s has the tags %v", name, r.Address, tags)
			}
		}
		if tagged < 3 {
			t.Errorf("%s: only %d resources carry tags", name, tagged)
		}
	}
}

func TestNoWayIn(t *testing.T) {
	ways := []string{"aws_internet_gateway", "aws_nat_gateway", "aws_eip", "aws_key_pair", "aws_vpc_peering_connection"}
	for name, e := range applied(t) {
		for _, r := range e.resources {
			if slices.Contains(ways, r.Type) {
				t.Errorf("%s: %s leads out of the network", name, r.Address)
			}
			if strings.HasPrefix(r.Type, "aws_vpc_security_group_") && (r.Values["cidr_ipv4"] != nil || r.Values["cidr_ipv6"] != nil) {
				t.Errorf("%s: %s names addresses", name, r.Address)
			}
		}
	}
}

// userData returns the one script in a launch template's MIME archive.
func userData(t *testing.T, r resource) string {
	t.Helper()
	archive, err := base64.StdEncoding.DecodeString(r.Values["user_data"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if len(archive) >= 16<<10 {
		t.Errorf("%s: %d bytes of user data, EC2 takes less than 16 KiB", r.Address, len(archive))
	}
	message, err := mail.ReadMessage(strings.NewReader(string(archive)))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatalf("%s: user data is %q, %v", r.Address, kind, err)
	}
	parts := multipart.NewReader(message.Body, params["boundary"])
	part, err := parts.NextPart()
	if err != nil || !strings.HasPrefix(part.Header.Get("Content-Type"), "text/x-shellscript") {
		t.Fatalf("%s: the first part is %v, %v", r.Address, part, err)
	}
	script, err := io.ReadAll(part)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("%s: a second part in user data", r.Address)
	}
	return string(script)
}

// startOf is the user data of an example's GPU nodes, "" where it has none.
func startOf(t *testing.T, e example) string {
	t.Helper()
	seen := ""
	for _, r := range e.resources {
		if r.Type == "aws_launch_template" {
			if script := userData(t, r); strings.HasSuffix(r.Address, `["gpu"]`) {
				seen = script
			}
		}
	}
	return seen
}

// TestUserDataRuns runs an example's user data as a node would, in a file tree of its own, and then the unit.
func TestUserDataRuns(t *testing.T) {
	script := startOf(t, applied(t)["try"])
	c := newCluster(t)
	c.uploadSoftware()
	c.upload("models/m", map[string]string{"config.json": "{}"})
	root := c.boot(strings.ReplaceAll(script, bucketOfExamples, "bucket"))
	for path, name := range map[string]string{
		"usr/local/sbin/tokenfork-mount": "mount.sh", "usr/local/sbin/tokenfork-stage": "stage.sh", "usr/local/sbin/tokenfork-ready": "ready.sh",
		"usr/local/bin/tokenfork-models": "models.sh", "usr/local/bin/vllm": "vllm.sh",
		"etc/systemd/system/tokenfork-stage.service": "stage.service", "etc/sudoers.d/tokenfork": "sudoers",
	} {
		if c.read(filepath.Join(root, path)) != c.read(filepath.Join(scripts, name)) {
			t.Errorf("user data changes %s", name)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "etc/sudoers.d/tokenfork")); err != nil || info.Mode().Perm() != 0o440 {
		t.Errorf("sudo ignores its rule: %v, %v", info, err)
	}
	if !exists(filepath.Join(root, "scratch/models/m/config.json")) {
		t.Error("the model is missing")
	}
}

const bucketOfExamples = "change-me-tokenfork"

// boot runs user data and the unit on a new node, and returns its root.
func (c *cluster) boot(script string, env ...string) string {
	c.t.Helper()
	root := filepath.Join(c.t.TempDir(), "root")
	c.prepare(root)
	c.write(filepath.Join(root, "user-data"), script, 0o755)
	c.must(root, "$TOKENFORK_ROOT/user-data", env...)
	c.must(root, stage, env...)
	return root
}

// TestBills holds docs/cloud.md and the examples' budgets to what costs.tf adds up from prices.json.
func TestBills(t *testing.T) {
	page, err := os.ReadFile("../docs/cloud.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range applied(t) {
		b := e.bill
		if len(b.LeftOut) > 0 || !strings.Contains(string(page), "prices of "+b.PricesOf) {
			t.Errorf("%s: left out %v, prices of %s", name, b.LeftOut, b.PricesOf)
		}
		if name == "bucket" {
			continue
		}
		row := fmt.Sprintf("| `%s.tfvars` | %s | %s | %s | %s | %s | %s |", name, b.IdleHour, b.IdleMonth, b.AllNodesHour, b.RunHours, b.Run, b.MonthAndARun)
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/cloud.md lacks\n%s", row)
		}
		month, err := strconv.ParseFloat(b.MonthAndARun, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, r := range e.resources {
			if r.Type != "aws_budgets_budget" {
				continue
			}
			limit, err := strconv.ParseFloat(r.Values["limit_amount"].(string), 64)
			if err != nil || limit < month || limit > month+100 {
				t.Errorf("%s: a budget of %v dollars, %v; a month and a run cost %v", name, limit, err, month)
			}
		}
	}
}

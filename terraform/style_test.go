package terraform_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// TestNothingIsUnusedOrUntyped reads each module: whatever it declares is
// used there, variables have a type, and what a user sees has a description.
func TestNothingIsUnusedOrUntyped(t *testing.T) {
	dirs, err := filepath.Glob("modules/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no modules: %v", err)
	}
	for _, dir := range append(dirs, ".") {
		for _, complaint := range complaints(t, dir) {
			t.Error(complaint)
		}
	}
}

func complaints(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no configuration in %s: %v", dir, err)
	}
	m := moduleText{declared: map[string]hcl.Range{}, used: map[string]bool{}}
	for _, name := range files {
		file, diags := hclparse.NewParser().ParseHCLFile(name)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		for _, block := range file.Body.(*hclsyntax.Body).Blocks {
			m.read(block)
		}
	}
	for name, at := range m.declared {
		if !m.used[name] {
			m.complaints = append(m.complaints, at.String()+": "+name+" is unused")
		}
	}
	slices.Sort(m.complaints)
	return m.complaints
}

// moduleText is what the files of a module declare and use, by names as
// expressions have them; a provider's is its own.
type moduleText struct {
	declared   map[string]hcl.Range
	used       map[string]bool
	complaints []string
}

func (m *moduleText) read(block *hclsyntax.Block) {
	own := ""
	switch block.Type {
	case "variable":
		own = "var." + block.Labels[0]
		m.declared[own] = block.DefRange()
		m.want(block, "type", "description")
	case "output":
		m.want(block, "description")
	case "locals":
		for name, a := range block.Body.Attributes {
			m.declared["local."+name] = a.NameRange
		}
	case "data":
		m.declared[strings.Join(append([]string{"data"}, block.Labels...), ".")] = block.DefRange()
	case "terraform":
		for _, b := range block.Body.Blocks {
			for name, a := range b.Body.Attributes {
				m.declared[name] = a.NameRange
			}
		}
	}
	if slices.Contains([]string{"provider", "resource", "data"}, block.Type) {
		provider, _, _ := strings.Cut(block.Labels[0], "_")
		m.used[provider] = true
	}
	_ = hclsyntax.VisitAll(block.Body, func(n hclsyntax.Node) hcl.Diagnostics {
		if e, ok := n.(*hclsyntax.ScopeTraversalExpr); ok {
			if name := nameOf(e.Traversal); name != own { // its own validation is no use of a variable
				m.used[name] = true
			}
		}
		return nil
	})
}

func (m *moduleText) want(block *hclsyntax.Block, attributes ...string) {
	for _, a := range attributes {
		if block.Body.Attributes[a] == nil {
			m.complaints = append(m.complaints, block.DefRange().String()+": "+block.Type+" "+block.Labels[0]+" has no "+a)
		}
	}
}

// nameOf is the part of a reference that names what is referred to.
func nameOf(t hcl.Traversal) string {
	parts := []string{t.RootName()}
	for _, step := range t[1:] {
		if a, ok := step.(hcl.TraverseAttr); ok && len(parts) < map[bool]int{true: 3, false: 2}[parts[0] == "data"] {
			parts = append(parts, a.Name)
		}
	}
	return strings.Join(parts, ".")
}

// TestNodesWaitForWhatTheyMount: a plan shows no order, and a node that starts before a mount target can't mount.
func TestNodesWaitForWhatTheyMount(t *testing.T) {
	file, diags := hclparse.NewParser().ParseHCLFile("modules/cluster/main.tf")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, block := range file.Body.(*hclsyntax.Body).Blocks {
		if block.Type != "resource" || block.Labels[0] != "awscc_pcs_compute_node_group" {
			continue
		}
		var waits []string
		if a := block.Body.Attributes["depends_on"]; a != nil {
			for _, v := range a.Expr.Variables() {
				waits = append(waits, nameOf(v))
			}
		}
		for _, want := range []string{"aws_efs_mount_target.shared", "aws_efs_file_system_policy.shared", "aws_iam_role_policy.node", "aws_iam_role_policy_attachment.node"} {
			if !slices.Contains(waits, want) {
				t.Errorf("node groups do not wait for %s", want)
			}
		}
		return
	}
	t.Error("no node groups")
}

// TestProvidersAreLocked: a later release of a provider changes nothing unasked, with OpenTofu or Terraform.
func TestProvidersAreLocked(t *testing.T) {
	file, diags := hclparse.NewParser().ParseHCLFile(".terraform.lock.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var locked []string
	for _, block := range file.Body.(*hclsyntax.Body).Blocks {
		if block.Body.Attributes["version"] != nil {
			locked = append(locked, block.Labels[0])
		}
	}
	for _, host := range []string{"registry.opentofu.org", "registry.terraform.io"} {
		for _, name := range []string{"aws", "awscc"} {
			if want := host + "/hashicorp/" + name; !slices.Contains(locked, want) {
				t.Errorf("%s is not locked", want)
			}
		}
	}
}

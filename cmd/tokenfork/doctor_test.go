package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/slurm/doctor"
)

// afterUlimit runs doctor in a shell that has set limits.
func afterUlimit(t *testing.T, limits string) (code int, r doctor.Report) {
	t.Helper()
	cmd := exec.Command("bash", "-c", limits+` && exec "$0" doctor --vllm '' --json`, os.Args[0])
	cmd.Env = append(os.Environ(), "TOKENFORK_TEST_MAIN=1")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	_ = cmd.Run() // the exit code tells
	d := json.NewDecoder(&out)
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%v: %s", err, &said)
	}
	if r.Format != doctor.Format || r.Version == "" || r.Host == "" || r.At.IsZero() || r.OK != (code == 0 && r.Failed == 0) || len(r.Findings) < 5 {
		t.Errorf("%+v", r)
	}
	return cmd.ProcessState.ExitCode(), r
}

func finding(t *testing.T, r doctor.Report, check string) doctor.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no %s in %+v", check, r.Findings)
	return doctor.Finding{}
}

// TestDoctorLimits: limits are those that a server would get, and what the line says to do
// works.
func TestDoctorLimits(t *testing.T) {
	t.Parallel()
	cure := regexp.MustCompile(`^ulimit -\w \w+`)
	for _, c := range []struct{ limits, check, level, cured string }{
		{"ulimit -Sn 1024 && ulimit -Hn 8192", "open files", doctor.Fail, doctor.OK},
		{"ulimit -Sn 4096 && ulimit -Hn 8192", "open files", doctor.Warn, doctor.OK},
		{"ulimit -n 1024", "open files", doctor.Fail, ""},
		{"ulimit -n 8192", "open files", doctor.OK, ""},
		{"ulimit -Su 3000", "processes", doctor.Warn, ""},
		{"ulimit -Sf 1000000", "file size", doctor.Fail, "-"},
		{"ulimit -Sv 100000000", "address space", doctor.Fail, "-"},
	} {
		code, r := afterUlimit(t, c.limits)
		f := finding(t, r, c.check)
		if f.Level != c.level || (f.Level == doctor.Fail && code != failure.Other) || (f.Hint == "") != (f.Level == doctor.OK) {
			t.Errorf("%s: %+v, exit code %d", c.limits, f, code)
		}
		if c.cured == "" {
			continue
		}
		command := cure.FindString(f.Hint)
		if command == "" {
			t.Fatalf("%s: no command in %q", c.limits, f.Hint)
		}
		_, r = afterUlimit(t, c.limits+" && "+command)
		for _, f := range r.Findings {
			if f.Check == c.check && f.Level != doctor.OK {
				t.Errorf("%s && %s: %+v", c.limits, command, f)
			}
		}
	}
}

// TestDoctorJSON: what is wrong is in the report, and the exit code tells.
func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	var out, said bytes.Buffer
	code := run(t.Context(), []string{"doctor", "--vllm", "/bin/false", "--job", t.TempDir(), "--json"}, &out, &said)
	var r doctor.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || code != failure.Other || r.OK || r.Failed < 2 {
		t.Fatalf("exit code %d, %v: %s", code, err, &out)
	}
	if f := finding(t, r, "vllm"); f.Level != doctor.Fail || !strings.Contains(f.Hint, "--vllm") {
		t.Errorf("%+v", f)
	}
	if f := finding(t, r, "job"); f.Level != doctor.Fail || !strings.Contains(f.Hint, "tokenfork plan") {
		t.Errorf("%+v", f)
	}
}

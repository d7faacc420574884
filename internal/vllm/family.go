package vllm

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Environment variables that mark a server's processes.
const (
	serverVar = "TOKENFORK_SERVER" // the server's nonce
	runnerVar = "TOKENFORK_RUNNER" // the process that owns it
)

// family is every process of one server. Any of three marks is enough, since
// each can be lost: a wrapper may clear the environment, a child may start a
// session of its own, and a killed guard has no descendants.
type family struct {
	nonce string // value of serverVar
	sid   int    // session, which is the guard's pid; 0: unknown
	root  int    // process whose descendants belong to it; 0: unknown
	spare int    // pid that is never listed
}

type process struct {
	pid, ppid, sid int
	cleaner        bool // tidies up when the others are gone
}

// members lists the live processes of the family.
func (f family) members() ([]process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int, len(all))
	for _, p := range all {
		parents[p.pid] = p.ppid
	}
	var members []process
	for _, p := range all {
		if p.pid == f.spare || p.pid == os.Getpid() {
			continue
		}
		if f.sid != 0 && p.sid == f.sid || f.descends(p.pid, parents) || hasEnv(p.pid, serverVar, f.nonce) {
			cmdline, _ := os.ReadFile(procPath(p.pid, "cmdline")) // gone by now: no cleaner
			p.cleaner = cleaners.Match(cmdline)
			members = append(members, p)
		}
	}
	return members, nil
}

// cleaners are Python's tracker, which removes shared memory, and Podman's monitor with
// what it starts in the end, which remove the container.
var cleaners = regexp.MustCompile(`multiprocessing\.resource_tracker|^([^\x00]*/)?conmon\x00|\x00container\x00cleanup\x00`)

func (f family) descends(pid int, parents map[int]int) bool {
	if f.root == 0 {
		return false
	}
	for pid > 1 {
		if pid = parents[pid]; pid == f.root {
			return true
		}
	}
	return false
}

// Stages of an ending, in order.
const (
	stageNone    = iota
	stageLeader  // SIGTERM to the leader, which ends its children in order
	stageAll     // SIGTERM to all but the cleaners
	stageKill    // SIGKILL to all but the cleaners
	stageKillAll // SIGKILL to all
)

const (
	// leaderGrace is what the leader gets to begin. Left alone, it waits 5 s
	// for its engine before it ends it.
	leaderGrace  = time.Second
	cleanerGrace = 10 * time.Second
	killGrace    = 20 * time.Second // a process in the GPU's driver can be slow to go
)

// end ends the family: SIGTERM, and after grace SIGKILL. It returns all pids
// that it saw, and an error that names those which would not go.
func (f family) end(leader int, grace time.Duration) (map[int]bool, error) {
	seen := map[int]bool{}
	start, stage := time.Now(), stageNone
	for {
		members, err := f.members()
		if err != nil || len(members) == 0 {
			return seen, err
		}
		leads := false
		for _, p := range members {
			seen[p.pid] = true
			leads = leads || p.pid == leader
		}
		passed := time.Since(start)
		if passed > grace+killGrace {
			return seen, fmt.Errorf("processes %s survived SIGKILL for %s", pidList(members), killGrace)
		}
		if next := nextStage(passed, grace, leads); next > stage || next >= stageKill {
			stage = next
			signalStage(members, leader, stage)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func nextStage(passed, grace time.Duration, leads bool) int {
	switch {
	case passed >= grace+cleanerGrace:
		return stageKillAll
	case passed >= grace:
		return stageKill
	case !leads || passed >= leaderGrace:
		return stageAll
	}
	return stageLeader
}

func signalStage(members []process, leader, stage int) {
	for _, p := range members {
		switch {
		case stage == stageKillAll, stage == stageKill && !p.cleaner:
			signalPID(p.pid, syscall.SIGKILL)
		case stage == stageAll && !p.cleaner, stage == stageLeader && p.pid == leader:
			signalPID(p.pid, syscall.SIGTERM)
		}
		signalPID(p.pid, syscall.SIGCONT) // a stopped process takes no SIGTERM
	}
}

// signalPID ignores that the process ended meanwhile: the next look tells.
func signalPID(pid int, sig syscall.Signal) { _ = syscall.Kill(pid, sig) }

// processes lists all live processes.
func processes() ([]process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue // not a process
		}
		if p, ok := readProcess(pid); ok {
			list = append(list, p)
		}
	}
	return list, nil
}

// readProcess is false for processes that have ended, zombies included.
func readProcess(pid int) (process, bool) {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return process{}, false
	}
	// pid (name) state ppid pgrp session …; the name may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 4 || fields[0] == "Z" || fields[0] == "X" {
		return process{}, false
	}
	ppid, _ := strconv.Atoi(fields[1])
	sid, _ := strconv.Atoi(fields[3])
	return process{pid: pid, ppid: ppid, sid: sid}, true
}

// hasEnv reports whether a process, of this user, was started with the variable.
func hasEnv(pid int, name, value string) bool {
	environ, err := os.ReadFile(procPath(pid, "environ"))
	if err != nil {
		return false // another user's, or gone
	}
	return bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+name+"="+value+"\x00"))
}

func procPath(pid int, file string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + file
}

func pidList(members []process) string {
	var pids []string
	for _, p := range members {
		pids = append(pids, strconv.Itoa(p.pid))
	}
	return strings.Join(pids, ", ")
}

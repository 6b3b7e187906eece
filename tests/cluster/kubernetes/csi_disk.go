package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// everywhere is the place of a volume that all nodes reach.
const everywhere = "everywhere"

// disk is the folder on a btrfs that holds volumes/PLACE/NAME and snapshots/NAME, each of them a subvolume, and
// capacities/NAME, a text file for each volume and snapshot.
type disk struct{ folder string }

// volume gives the path of a volume. Its id is PLACE/NAME.
func (d disk) volume(id string) string {
	place, name := filepath.Split(filepath.Clean("/" + id))
	return filepath.Join(d.folder, "volumes", filepath.Base(place), name)
}

func (d disk) snapshot(id string) string {
	return filepath.Join(d.folder, "snapshots", filepath.Base(id))
}

// find gives the id of the volume with this name, wherever it is, or nothing.
func (d disk) find(name string) string {
	found, _ := filepath.Glob(filepath.Join(d.folder, "volumes", "*", filepath.Base(name)))
	if len(found) == 0 {
		return ""
	}
	return filepath.Base(filepath.Dir(found[0])) + "/" + filepath.Base(found[0])
}

// create makes a volume, empty or from the subvolume given, and lets it grow to so many bytes. It appears complete or
// not at all.
func (d disk) create(id, from string, capacity int64) error {
	made := d.volume(id)
	part := filepath.Join(d.folder, "part-"+filepath.Base(made))
	if err := os.MkdirAll(filepath.Dir(made), 0o755); err != nil {
		return err
	}
	if err := remove(part); err != nil {
		return err
	}
	if from == "" {
		if err := btrfs("subvolume", "create", part); err != nil {
			return err
		}
		if err := os.Chmod(part, 0o777); err != nil {
			return err
		}
	} else if err := btrfs("subvolume", "snapshot", from, part); err != nil {
		return err
	}
	if capacity > 0 {
		if err := btrfs("qgroup", "limit", strconv.FormatInt(capacity, 10), part); err != nil {
			return err
		}
	}
	if err := d.note(made, capacity); err != nil {
		return err
	}
	return os.Rename(part, made)
}

// freeze makes a snapshot that cannot be written.
func (d disk) freeze(id, name string) error {
	if err := d.note(d.snapshot(name), d.capacity(d.volume(id))); err != nil {
		return err
	}
	return btrfs("subvolume", "snapshot", "-r", d.volume(id), d.snapshot(name))
}

func (d disk) note(path string, capacity int64) error {
	return os.WriteFile(filepath.Join(d.folder, "capacities", filepath.Base(path)), []byte(strconv.FormatInt(capacity, 10)), 0o644)
}

// capacity gives what was asked for when the volume was made; zero where nothing is known.
func (d disk) capacity(path string) int64 {
	text, _ := os.ReadFile(filepath.Join(d.folder, "capacities", filepath.Base(path)))
	bytes, _ := strconv.ParseInt(string(text), 10, 64)
	return bytes
}

// remove deletes a subvolume; one that is not there is no error.
func remove(path string) error {
	if _, err := os.Lstat(path); os.IsNotExist(err) {
		return nil
	}
	return btrfs("subvolume", "delete", path)
}

// madeAt is when a subvolume was made: the times of its files are those of its source.
func madeAt(path string) (time.Time, error) {
	text, err := exec.Command("btrfs", "subvolume", "show", path).Output()
	if err != nil {
		return time.Time{}, fmt.Errorf("btrfs subvolume show %s: %w", path, err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name == "Creation time" {
			return time.Parse("2006-01-02 15:04:05 -0700", strings.TrimSpace(value))
		}
	}
	return time.Time{}, fmt.Errorf("btrfs subvolume show %s: no creation time", path)
}

func btrfs(arguments ...string) error {
	if said, err := exec.Command("btrfs", arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("btrfs %s: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(string(said)))
	}
	return nil
}

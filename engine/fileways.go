package main

import (
	"errors"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/builtin"
)

// checkFileWays refuses an option io of file volumes that means nothing, or that
// this kernel cannot.
func checkFileWays(cfg *config.Config) (problems config.Problems) {
	for _, v := range fileVolumes(cfg) {
		o, given := v.Option("io")
		if !given {
			continue
		}
		how, err := o.Text()
		if err != nil {
			continue // the plugin's options are checked elsewhere
		}
		var no *builtin.WayError
		if errors.As(builtin.CheckWay(how), &no) {
			problems = append(problems, cfg.OptionProblem(v, o, &config.ValueError{What: no.What, Fix: no.Fix}))
		}
	}
	return problems
}

// fileWayNotes say what the kernel cannot do for files, if there are any.
func fileWayNotes(cfg *config.Config, usable func() error) []string {
	if len(fileVolumes(cfg)) == 0 {
		return nil
	}
	if err := usable(); err != nil {
		return []string{"file volumes: workers wait for the disk, at more CPU: " + err.Error()}
	}
	return []string{"file volumes: io_uring can be used"}
}

// fileVolumes are the volumes on the plugin file that is linked in.
func fileVolumes(cfg *config.Config) (all []*config.Volume) {
	p, ok := cfg.Plugin("file")
	if !ok || p.Runtime != config.RuntimeBuiltin {
		return nil
	}
	for i := range cfg.Volumes {
		if cfg.Volumes[i].Plugin == p.Name {
			all = append(all, &cfg.Volumes[i])
		}
	}
	return all
}

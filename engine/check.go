package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/builtin"
)

// defaultFile is the configuration of commands that are given none.
const defaultFile = "engine.toml"

func fileFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "config", "c", defaultFile, "configuration `file`")
}

func checkCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "check", Short: "Find all that run would refuse, without serving", Args: noArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			warn := func(w config.Problem) { fmt.Fprintln(cmd.OutOrStdout(), "warning:", w) }
			p, err := preflight(cmd.Context(), file, false, warn, newLogger(cmd.ErrOrStderr(), slog.LevelWarn))
			if err != nil {
				return err
			}
			defer p.close()
			can := probeDevices(cmd.Context())
			notes := append(can.lines(), fileWayNotes(p.cfg, builtin.RingUsable)...)
			return sayFine(cmd.OutOrStdout(), p, append(notes, sandboxNotes(p.cfg)...))
		})}
	fileFlag(cmd, &file)
	return cmd
}

func sayFine(w io.Writer, p *plan, can []string) error {
	for _, note := range append(keptNotes(p.cfg), can...) {
		fmt.Fprintln(w, note)
	}
	_, err := fmt.Fprintf(w, "%s: no problems: %s, %s, %s\n", p.cfg.File, count(len(p.registry.Plugins()), "plugin"),
		count(len(p.cfg.Volumes), "volume"), count(len(p.cfg.Exports), "export"))
	return err
}

// keptNotes say which plugins are not those that the file itself names.
func keptNotes(cfg *config.Config) (notes []string) {
	for _, p := range cfg.Plugins {
		if p.DropIn != "" {
			notes = append(notes, fmt.Sprintf("plugin %q is %s by %s, and not %s, which %s names",
				p.Name, p.Source, p.DropIn, p.Own, cfg.File))
		}
	}
	return notes
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

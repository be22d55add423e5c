#!/usr/bin/env bash
# mkdocs 1.6.1: `build --strict` with `--quiet` passes a site that `build --strict` alone refuses.
#
# Guessed: --quiet says less, and --strict still fails on a warning.
# Seen: --quiet raises the level below which records are dropped to ERROR; the handler that counts warnings for --strict
#   never gets one, and the exit code is 0. A link that leads nowhere is let through, without a word.
# Worth knowing for whoever checks documentation in CI and wants a quiet log: leave --quiet out, and drop the output.
#
# Needs python3 with venv, and a package index. Exit 0: as described; 1: it changed; 125: it could not be tried.
set -u
work="$(mktemp -d)" || exit 125
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check mkdocs==1.6.1 || exit 125

mkdir "$work/docs"
printf 'site_name: example\n' >"$work/mkdocs.yml"
printf '# Example\n\n[a page that is not there](nowhere.md)\n' >"$work/docs/index.md"
build() { "$work/venv/bin/mkdocs" build --strict "$@" --config-file "$work/mkdocs.yml" --site-dir "$work/site" 2>&1; }

"$work/venv/bin/mkdocs" --version
loud="$(build)" && loud_code=0 || loud_code=$?
hushed="$(build --quiet)" && hushed_code=0 || hushed_code=$?
printf -- '--strict:         exit %s, %s\n' "$loud_code" "$(grep -c nowhere.md <<<"$loud") line(s) about the link"
printf -- '--strict --quiet: exit %s, output: "%s"\n' "$hushed_code" "$hushed"

[ "$loud_code" -eq 1 ] && grep -q "nowhere.md" <<<"$loud" && [ "$hushed_code" -eq 0 ] && [ -z "$hushed" ]

#!/usr/bin/env bash
# Fetches Apache Flink from Maven Central and compiles the job that `spine` runs as its second peer.
#
#   bench/flink/fetch.sh [DIR]        # DIR: target/peers/flink unless told otherwise, where `spine` looks by itself
#
# Needs Java 17 or newer with javac, and Maven. About 120 MB.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../target/peers/flink}
mkdir -p "$folder/classes"
folder=$(cd "$folder" && pwd)

mvn -q -B -ntp -f "$here/pom.xml" dependency:copy-dependencies \
    -DoutputDirectory="$folder/lib" -DincludeScope=runtime
javac -cp "$folder/lib/*" -d "$folder/classes" "$here/SpineJob.java"
echo "$folder"

//! A volume snapshot is one moment of the volume: a database that was writing recovers from it as from a power cut.

use super::Namespace;
use crate::peers::wait_for;

/// PostgreSQL on the claim given, which it initialises where it is empty.
fn postgres(name: &str, claim: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: postgres
      image: databases:test
      command:
        - bash
        - -c
        - |
          cd /usr/lib/postgresql/*/bin
          mkdir -p /data/pg && chown postgres /data/pg && chmod 700 /data/pg
          as() {{ exec setpriv --reuid postgres --regid postgres --init-groups \"$@\"; }}
          [ -e /data/pg/PG_VERSION ] || (as ./initdb -D /data/pg -A trust)
          as ./postgres -D /data/pg -h 127.0.0.1 -k /tmp
      readinessProbe: {{exec: {{command: [pg_isready, -U, postgres, -h, 127.0.0.1]}}, periodSeconds: 1}}
      volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]
"
    )
}

fn claim(name: &str, source: &str) -> String {
    format!(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 2Gi}}}}{source}}}
"
    )
}

fn query(namespace: &Namespace, pod: &str, sql: &str) -> String {
    namespace.shell(pod, &format!("psql -h 127.0.0.1 -U postgres -Atqc \"{sql}\"")).trim().to_owned()
}

/// How many rows the writers have been told are safe: each appends a line after each commit.
fn acknowledged(namespace: &Namespace) -> Vec<u64> {
    let counts = namespace.shell("shop", "for each in 1 2 3; do wc -l </tmp/acknowledged-$each; done");
    counts.split_whitespace().map(|count| count.parse().expect("a count")).collect()
}

fn snapshot(namespace: &Namespace) {
    namespace.apply(
        "
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: busy}
spec: {source: {persistentVolumeClaimName: data}}
",
    );
    namespace.wait("volumesnapshot/busy", "jsonpath={.status.readyToUse}=true");
    namespace.apply(&claim(
        "restored",
        ", dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: busy}",
    ));
}

/// A pod that has the claim at /data, and waits.
fn pod(name: &str, claim: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: main, image: databases:test, command: [sleep, infinity], volumeMounts: [{{name: data, mountPath: /data}}]}}
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]
"
    )
}

#[test]
fn a_snapshot_is_one_moment_of_all_its_files() {
    let namespace = Namespace::new("live-moment");
    namespace.apply(&claim("data", ""));
    // A line to the first file, on disk, and only then one to the last; between them lies much to copy.
    let writer = r#"
touch /data/1-first
head -c 300M /dev/urandom >/data/2-between
touch /data/3-last
sync
perl -MIO::Handle -e '
  open(my $first, ">>", "/data/1-first"); open(my $last, ">>", "/data/3-last");
  while (1) { for my $file ($first, $last) { syswrite($file, "x\n"); $file->sync } }
' </dev/null >/dev/null 2>&1 &
"#;
    namespace.apply(&pod("writer", "data"));
    namespace.wait("pod/writer", "condition=Ready");
    namespace.shell("writer", writer);
    wait_for("the writer to be busy", 60, || {
        let lines = namespace.shell("writer", "wc -l </data/3-last");
        (lines.trim().parse::<u64>().expect("a count") > 50).then_some(())
    });
    snapshot(&namespace);
    namespace.apply(&pod("reader", "restored"));
    namespace.wait("pod/reader", "condition=Ready");
    let count = |name: &str| -> u64 {
        namespace.shell("reader", &format!("wc -l </data/{name}")).trim().parse().expect("a count")
    };
    let (first, last) = (count("1-first"), count("3-last"));
    assert!(first == last || first == last + 1, "{first} lines in the first file, {last} in the last");
    assert!(last > 50, "{last}");
}

#[test]
fn postgres_under_load_recovers_from_a_snapshot_without_a_checkpoint() {
    let namespace = Namespace::new("live-crash");
    namespace.apply(&claim("data", ""));
    namespace.apply(&postgres("shop", "data"));
    namespace.wait("pod/shop", "condition=Ready");
    query(
        &namespace,
        "shop",
        "create table line (writer int, number bigint, filling text, primary key (writer, number))",
    );

    // Three writers, each row a transaction of its own, as quick as they can; and pages that change all the time.
    let writer = r#"
for writer in 1 2 3; do
  : >/tmp/acknowledged-$writer
  (
    for number in $(seq 1000000); do
      echo "insert into line values ($writer, $number, repeat(md5(random()::text), 20)) returning number;"
    done | psql -h 127.0.0.1 -U postgres -Atq >/tmp/acknowledged-$writer
  ) </dev/null >/dev/null 2>&1 &
done
(while psql -h 127.0.0.1 -U postgres -qc 'update line set filling = md5(filling) where number % 7 = 0'; do :; done) </dev/null >/dev/null 2>&1 &
"#;
    namespace.shell("shop", writer);
    wait_for("the writers to be busy", 60, || acknowledged(&namespace).iter().all(|&rows| rows > 300).then_some(()));

    let before = acknowledged(&namespace);
    snapshot(&namespace);
    let after = acknowledged(&namespace);
    assert!(after.iter().zip(&before).all(|(after, before)| after > before), "nobody wrote: {before:?} {after:?}");

    namespace.apply(&postgres("restored", "restored"));
    namespace.wait("pod/restored", "condition=Ready");
    let log = crate::peers::said(&namespace.kubectl().args(["logs", "restored"]).output().expect("kubectl"));
    assert!(log.contains("database system was not properly shut down"), "this was no crash: {log}");
    assert!(log.contains("redo done at"), "{log}");

    // Each writer's rows up to some moment between the two looks, and not one of them missing or damaged.
    for (index, (before, after)) in before.iter().zip(&after).enumerate() {
        let row = query(
            &namespace,
            "restored",
            &format!("select count(*), max(number) from line where writer = {}", index + 1),
        );
        let (count, last) = row.split_once('|').expect("two numbers");
        assert_eq!(count, last, "rows are missing in the middle");
        let count: u64 = count.parse().expect("a count");
        // The row that was on its way when we looked may be there, too.
        assert!((*before..=*after + 1).contains(&count), "{before} ≤ {count} ≤ {after}");
    }
    query(&namespace, "restored", "create extension amcheck");
    query(&namespace, "restored", "select bt_index_check('line_pkey', true)");
}

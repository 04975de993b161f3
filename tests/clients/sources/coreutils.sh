# What it says is the same on any machine, and under xe-mock run: no line may tell the time.

export LC_ALL=C TZ=UTC
cd "$(mktemp -d)" || exit
trap 'rm -rf "$PWD"' EXIT
try() { echo "\$ $1"; (eval "$1") 2>&1; echo "= $?"; }
umask 022
seq 1 20000 > numbers
cp /etc/passwd copy
ln -s copy link
mkdir -p tree/a/b tree/c; touch -d @1000000000 tree/a/one tree/c/two tree/c
mkfifo pipe; touch -d @1000000000 pipe

try 'ls -ln --time-style=+ numbers copy tree tree/a/b'
try 'ls -R tree; ls -d /proc/self/fdinfo/999; ls /proc/self/fdinfo | head -n 3'
try 'stat -c "%n %F %s %a %u %g %h %Y" tree/a/one tree/c pipe /etc/passwd /usr/bin/env'
try 'stat -c "%n %F %t:%T" /dev/null /dev/zero /dev/full; stat -Lc %F link; stat -c %F link'
try 'stat nothing; cat nothing; cat tree'
try 'cat copy link | sha256sum; cat < numbers | md5sum; cksum numbers; b2sum numbers'
try 'sort -rn numbers | sha256sum; sort -R --random-source=/etc/passwd numbers | sha256sum'
try 'sort -S 64K -T . numbers numbers | uniq -c | sha256sum'
try 'shuf -n 9 --random-source=copy numbers'
try 'head -c -100000 numbers | tail -c 100; tail -n 3 numbers; tac numbers | head -n 3'
try 'wc numbers copy; cut -d: -f1,3 copy; tr a-z A-Z < copy | sha256sum'
try 'nl copy | tail -n 1'
try 'split -n 4 numbers part.; sha256sum part.*; cat part.* | cmp - numbers'
try 'csplit -s numbers 100 200; wc -l xx*; comm -12 xx00 xx00 | wc -l'
try 'join copy copy | sha256sum'
try 'paste numbers numbers | od -An -tx1 | sha256sum'
try 'base64 numbers | base64 -d | cmp - numbers'
try 'dd if=numbers of=skipped bs=1000 skip=7 seek=3 count=5 status=none; sha256sum skipped'
try 'dd if=/dev/zero bs=64K count=16 status=none | sha256sum'
try 'dd if=numbers of=/dev/full status=none'
try 'truncate -s 1M sparse; du -B1 sparse; du -b --apparent-size sparse numbers'
try 'cmp -n 99 sparse /dev/zero'
try 'cp -a tree other; diff -r tree other; cp -a link pipe other; ls other'
try 'cp --sparse=always sparse thin; cmp sparse thin'
try 'mv other moved; ln numbers hard; stat -c %h numbers; rm hard'
try 'install -m 640 copy there; stat -c %a there'
try 'find tree moved -printf "%p %y %s %m\n" | sort; find . -name "part.*" -delete'
try 'find /etc -maxdepth 1 -type f | sort | xargs ls -ldn --time-style=+'
try 'readlink link; readlink -f link | xargs basename'
try 'realpath --relative-to=. tree/../copy'
try 'chmod 000 there; stat -c %A there; chown 1:1 there; stat -c %u:%g there'
try 'touch -d @5 there; date -r there +%s'
try 'grep -c 7 numbers; sed -n 7p numbers; awk "{ s += \$1 } END { print s }" numbers'
try 'tar -cf - --sort=name --mtime=@0 --owner=0 --group=0 tree link | sha256sum'
try 'gzip -nc numbers | sha256sum; gzip -nc numbers | zcat | cmp - numbers'
try 'tee one two < copy | cmp - copy; cmp one two'
try 'timeout 0.1 cat pipe; timeout -s KILL 0.1 cat pipe; env -i "$(command -v env)"'
try 'nice -n 1 true; exit 3'
try 'sh -c "kill -TERM \$\$; echo not here"'
try 'sync numbers; df --output=target /proc; test -c /dev/null -a -p pipe -a ! -e nothing'
try 'rmdir tree/c; rm -r tree; ls'

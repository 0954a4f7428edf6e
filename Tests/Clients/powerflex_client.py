"""Lists, creates, maps, resizes, renames, unmaps and removes a volume with PyPowerFlex, as a user of it would."""

import sys

from PyPowerFlex import PowerFlexClient
from PyPowerFlex import exceptions

port, password, pool_id, domain_id, guid = sys.argv[1:6]

client = PowerFlexClient(
    gateway_address="127.0.0.1", gateway_port=int(port), username="admin", password=password,
    verify_certificate=False, timeout=20)
client.initialize()

system = client.system.get()[0]
assert client.protection_domain.get()[0]["id"] == domain_id
assert client.storage_pool.get(entity_id=pool_id)["protectionDomainId"] == domain_id
servers = client.sds.get()
assert len(servers) == 3 and len(client.device.get()) == 3
assert len(client.sds.get_devices(servers[0]["id"])) == 1
sdc = client.sdc.get(filter_fields={"sdcGuid": guid})[0]
assert client.volume.get() == []
assert client.storage_pool.get_statistics(pool_id)["numOfVolumes"] == 0

volume = client.volume.create(
    storage_pool_id=pool_id, name="powerflex", size_in_gb=10, volume_type="ThinProvisioned")
assert volume["sizeInKb"] == 16 * 1024 * 1024, volume
assert volume["volumeType"] == "ThinProvisioned"
try:
    client.volume.create(storage_pool_id=pool_id, name="powerflex", size_in_gb=8, volume_type="ThinProvisioned")
    raise AssertionError("the name was used twice")
except exceptions.PowerFlexFailCreating as error:
    assert "already in use" in str(error), error

client.volume.add_mapped_sdc(volume["id"], sdc_id=sdc["id"])
mapped = client.volume.get(entity_id=volume["id"])["mappedSdcInfo"]
assert [entry["sdcId"] for entry in mapped] == [sdc["id"]]
assert client.sdc.get_mapped_volumes(sdc["id"])[0]["id"] == volume["id"]
client.volume.set_mapped_sdc_limits(volume["id"], sdc["id"], bandwidth_limit="2048", iops_limit="100")
mapped = client.volume.get(entity_id=volume["id"])["mappedSdcInfo"]
assert [(entry["limitIops"], entry["limitBwInMbps"]) for entry in mapped] == [(100, 2)], mapped
try:
    client.volume.delete(volume["id"], "ONLY_ME")
    raise AssertionError("a mapped volume was removed")
except exceptions.PowerFlexFailDeleting as error:
    assert "Volume is mapped" in str(error), error

client.volume.extend(volume["id"], 24)
client.volume.rename(volume["id"], "renamed")
assert client.volume.get(filter_fields={"name": "renamed"}, fields=["id", "sizeInKb"]) == [
    {"id": volume["id"], "sizeInKb": 24 * 1024 * 1024}]
assert client.volume.get_statistics(volume["id"])["numOfMappedSdcs"] == 1

client.volume.remove_mapped_sdc(volume["id"], sdc_id=sdc["id"])
assert client.volume.get(entity_id=volume["id"])["mappedSdcInfo"] is None
client.volume.delete(volume["id"], "ONLY_ME")
assert client.volume.get() == []
print("all done")
